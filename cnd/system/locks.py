"""Locks on files, which processes hold as long as they live.

One rule: nothing waits for a lock; and a look takes nothing, nor does it make a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cnd.errors import UsageError


def is_locked(path: Path) -> bool:
    """Whether a process on this machine holds the lock of this file now.

    False where it is not there, cannot be read, or is a symbolic link.
    """
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def taken(descriptor: int) -> bool:
    """Lock an open file; return whether no other process holds its lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Lock a file, made if it is missing, as long as the block lasts.

    Yields whether no other process holds the lock.

    Raises:
        UsageError: the file cannot be made, or is a symbolic link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        lock = os.open(path, flags, 0o600)
    except OSError as error:
        message = f"cannot write to {path.parent}: {error.strerror}"
        raise UsageError(message, hint="make room there") from error
    try:
        yield taken(lock)
    finally:
        os.close(lock)
