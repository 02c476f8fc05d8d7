"""The reports that processes are drawing, and those that could not be drawn.

One rule: each has a file in the state folder.  It is locked as long as a process draws
that report, says what went wrong, and is removed when all is well.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from cnd.errors import UsageError
from cnd.model.run_name import is_run
from cnd.system import private_files
from cnd.system.folders import state_folder
from cnd.system.locks import is_locked

ENDED = "no report: its process was ended, or took too long"  # as it cannot write it
LOOK = 0.02  # seconds between two looks at a lock
MOST = 1000  # bytes of a reason


def folder() -> Path:
    """Return where the files are; `UsageError` where no home folder is known."""
    return state_folder() / "reports"


def begin(run: str) -> int:
    """Return the open, locked file of a report that is to be drawn.

    A child process that inherits it keeps the lock until it ends.

    Raises:
        OSError: it cannot be made, or is being drawn already.
    """
    private_files.folder(state_folder())
    path = private_files.folder(folder()) / run
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, private_files.FILE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        give_reason(lock, ENDED)
    except OSError:
        os.close(lock)
        raise
    return lock


def give_reason(lock: int, reason: str) -> None:
    """Write what went wrong."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, reason.encode(errors="replace")[:MOST], 0)


def done(run: str) -> None:
    """Note that a report is where it belongs."""
    with contextlib.suppress(OSError, UsageError):
        (folder() / run).unlink()


def failures() -> dict[str, str]:
    """Return what went wrong with the reports of some runs, each once."""
    found = {}
    with contextlib.suppress(OSError, UsageError):
        for path in folder().iterdir():
            if is_run(path.name) and not is_locked(path):
                with contextlib.suppress(OSError):
                    found[path.name] = _reason(path)
                    path.unlink()
    return found


def settled(run: str, patience: float) -> bool:
    """Wait while a process draws a report; return whether one has drawn it.

    False where none was drawing it, it failed, or `patience` seconds are over.
    """
    path, deadline, waited = folder() / run, time.monotonic() + patience, False
    while is_locked(path) and time.monotonic() < deadline:
        waited = True
        time.sleep(LOOK)
    return waited and not path.exists()


def _reason(path: Path) -> str:
    lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.read(lock, MOST).decode(errors="replace")
    finally:
        os.close(lock)
