"""Signals that ask for the end of a run: the first in order, the second at once.

One rule: the handler may interrupt any code, so it only passes the request on.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

# What ends a run in order, and its name in messages.
ASKS = {
    int(signal.SIGINT): "Ctrl-C",
    int(signal.SIGTERM): "SIGTERM",
    int(signal.SIGHUP): "its terminal went away",
}


@contextlib.contextmanager
def forwarded(
    request: Callable[[str], None], over: Callable[[], bool]
) -> Iterator[None]:
    """Call `request` with the name of a signal, which then does not end the process.

    Under nohup a terminal that goes away is no reason to end.

    Args:
        over: whether the end has come: then nothing is cut short any more.

    Raises:
        KeyboardInterrupt: at the second signal, unless it is over.  No later one does:
            it could only cut short the termination of the fleet.
    """
    signals = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if signals == 2 and not over():
            raise KeyboardInterrupt
        if signals == 1 or over():
            request(ASKS[number])

    handled = set(ASKS)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        handled.remove(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
