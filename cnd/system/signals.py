"""Signals that ask for the end of a run: once in order, twice at once.

One rule: the handler runs in the middle of anything, so it only passes the word on.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

# What ends a run in order, and how a person calls it.
ASKS = {
    int(signal.SIGINT): "Ctrl-C",
    int(signal.SIGTERM): "SIGTERM",
    int(signal.SIGHUP): "its terminal went away",
}


@contextlib.contextmanager
def heeded(ask: Callable[[str], None], over: Callable[[], bool]) -> Iterator[None]:
    """Call `ask` with the name of a signal instead of dying of it.

    Under nohup a terminal that goes away is no reason to end.

    Args:
        over: whether the end has come: then nothing is cut short any more.

    Raises:
        KeyboardInterrupt: at the second signal, unless it is over; at no later one,
            which could only cut short what ends the fleet.
    """
    signals = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if signals == 2 and not over():
            raise KeyboardInterrupt
        if signals == 1 or over():
            ask(ASKS[number])

    heard = set(ASKS)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        heard.remove(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
