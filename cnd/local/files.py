"""The state folder of an embedded cloud: who is alive, and where it answers.

One rule: a lock says who lives, never a file's existence: the kernel drops a
lock when its holder dies, however it dies.

    endpoint.json  where the cloud answers (0600)    lock   one `up` or `down` at a time
    cloud.log      what the server has printed       alive  held by the living server
    hosts/         the file trees of the hosts       ssh_config, known_hosts
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnd import private
from cnd.errors import CloudError, UsageError
from cnd.local.paths import SAFE_TREE

ENDPOINT, LOG = "endpoint.json", "cloud.log"
POLL_SECONDS = 0.01
PROBED_SECONDS = 1.0  # for those to let go who only look whether a server lives


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return, and make, the state folder; raises UsageError if that cannot be."""
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    folder = Path(os.path.realpath(base)) / "cnd/local"
    if not SAFE_TREE.fullmatch(str(folder)):
        raise UsageError(
            f"the state folder's name must be plain, not {str(folder)!r}",
            hint="set XDG_STATE_HOME to a path without spaces and special characters",
        )
    try:
        private.folder(folder.parent)
        private.folder(folder)
    except OSError as error:
        raise UsageError(f"no state folder: {error}") from error
    return folder


@contextmanager
def caller_lock(folder: Path, deadline: float) -> Iterator[None]:
    """Be the only `up` or `down`; raises CloudError at `deadline` (monotonic)."""
    with private.open_end(folder / "lock") as file:
        while not _locked(file.fileno()):
            if time.monotonic() > deadline:
                raise CloudError("another command is starting or ending the cloud")
            time.sleep(POLL_SECONDS)
        yield


@contextmanager
def alive_lock(folder: Path) -> Iterator[None]:
    """Be the living server; raises CloudError if there is one."""
    with private.open_end(folder / "alive") as file:
        deadline = time.monotonic() + PROBED_SECONDS
        while not _locked(file.fileno()):  # `is_alive` takes it for an instant
            if time.monotonic() > deadline:
                raise CloudError("an embedded cloud already runs here")
            time.sleep(POLL_SECONDS)
        yield


def is_alive(folder: Path) -> bool:
    """Say whether a server lives, answering or not."""
    with private.open_end(folder / "alive") as file:
        return not _locked(file.fileno())


def read_endpoint(folder: Path) -> dict[str, Any] | None:
    """Return what the server has written; it may be dead by now."""
    try:
        record = json.loads((folder / ENDPOINT).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_endpoint(folder: Path, record: Mapping[str, Any]) -> None:
    private.write(folder / ENDPOINT, json.dumps(record))


def remove_endpoint(folder: Path) -> None:
    (folder / ENDPOINT).unlink(missing_ok=True)


def last_log_line(folder: Path) -> str:
    try:
        lines = (folder / LOG).read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
