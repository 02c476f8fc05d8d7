"""Keeps a failure inside the cloud from ending it.

One rule: the cloud ends on request, or when idle, and never by a failure: that is
logged, and only the failed action is lost.  Every host dies with the cloud, and its
users would wait for hosts that are gone.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator


@contextlib.contextmanager
def guarded(what: str) -> Iterator[None]:
    """Log an exception of the block, and continue after the block."""
    try:
        yield
    except Exception as error:
        log(f"{what}: failed\n{''.join(traceback.format_exception(error))}")


def log(text: str) -> None:
    """Write to the log; on a full disk the text is lost."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
