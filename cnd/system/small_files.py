"""Small files that another program may have written, or replaced by something else.

One rule: reading takes a bounded time and memory, whatever lies there, and every
failure is an `OSError` with its reason.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST = 1 << 20  # bytes of a configuration


def opened(path: Path) -> BinaryIO:
    """Open a regular file to read; a pipe or a device would not end.

    Raises:
        OSError: it is not there, may not be read, or is no regular file.
    """
    try:
        # A pipe that nothing writes to would keep `open` waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a name with a NUL
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return open(descriptor, "rb")


def read(path: Path, most: int = MOST) -> bytes:
    """Return what is in a regular file.

    Raises:
        OSError: as `opened`; or it has more than `most` bytes.
    """
    with opened(path) as file:
        found = file.read(most + 1)
    if len(found) > most:
        reason = f"More than {most} bytes"
        raise OSError(errno.EFBIG, reason, str(path))
    return found
