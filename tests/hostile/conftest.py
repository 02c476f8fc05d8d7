"""Attacks on the whole program: the user, and the cloud to lay faults in, as there."""

from __future__ import annotations

from tests.fault.conftest import cloud, terminal

__all__ = ["cloud", "terminal"]
