"""Locks on files, which processes hold as long as they live.

One rule: a look takes nothing: it neither makes a file nor waits for a lock.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


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
