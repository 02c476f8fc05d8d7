"""Faults, laid in the cloud's calls and on its hosts."""

from __future__ import annotations

from pathlib import Path

from cnd.local import Endpoint, lay_fault


def lay(cloud: Endpoint, action: str, **fault: object) -> None:
    """Let a call of the cloud fail."""
    lay_fault(cloud, {"action": action, **fault})


def befall(cloud: Endpoint, host: object, kind: str, **more: object) -> None:
    """Let something befall a host: an id, or the place of one to come."""
    lay_fault(cloud, {"host": str(host), "kind": kind, **more})


def kill(cloud: Endpoint, host: str) -> None:
    befall(cloud, host, "kill")


def events_of(cloud: Endpoint, host: str) -> Path:
    """Return the file to which the worker of a host writes."""
    (found,) = (cloud.folder / "hosts" / host).rglob("class-*/events.jsonl")
    return found
