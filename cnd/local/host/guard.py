"""What may fail without ending the cloud.

One rule: the cloud ends when it is told to, or idle; a failure inside costs what it was
about, and is told in the log.  Every host dies with the cloud, and their users would
wait for machines that are gone.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator


@contextlib.contextmanager
def guarded(what: str) -> Iterator[None]:
    """Let a failure of the block be told, and no more; also a log that is full."""
    try:
        yield
    except Exception as error:
        say(f"{what}: failed\n{''.join(traceback.format_exception(error))}")


def say(text: str) -> None:
    """Write into the log; a full disk costs the text."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
