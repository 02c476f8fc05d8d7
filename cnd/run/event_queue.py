"""The queue on which all threads put their events, for the one thread that decides.

One rule: `put` never waits, not even in a signal handler that interrupts any of this
code; so there is no lock, only queues.
"""

from __future__ import annotations

import contextlib
from queue import Empty, SimpleQueue

from cnd.model.events import PROGRESS, Event

MOST = 1000  # events that wait; the readers of hosts pause while there are more


class EventQueue:
    """Events in the order of arrival; progress does not wake the reader."""

    def __init__(self) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        # One entry for each event that is not progress, put after its event: with one
        # too many a wait ends early, with one too few an event would be late.
        self._bell: SimpleQueue[None] = SimpleQueue()

    def put(self, event: Event) -> None:
        """Add an event, from any thread."""
        self._events.put(event)
        if event.kind != PROGRESS:
            self._bell.put(None)

    def wake(self) -> None:
        """End the wait of `batch`, from any thread."""
        self._bell.put(None)

    @property
    def full(self) -> bool:
        """Whether so many events wait that less urgent ones should not be put yet."""
        return self._events.qsize() >= MOST

    def batch(self, seconds: float = 0.0) -> list[Event]:
        """Return the events that wait, up to the first that is not progress.

        Waits for such an event, `seconds` at most: hundreds of workers report every
        second, and to wake for each of them would cost more than to process it.
        """
        rung = self._has_rung(seconds)
        events: list[Event] = []
        with contextlib.suppress(Empty):
            while not events or events[-1].kind == PROGRESS:
                events.append(self._events.get_nowait())
            if not rung:
                self._has_rung(0.0)
        return events

    def _has_rung(self, seconds: float) -> bool:
        try:
            self._bell.get(timeout=seconds)
        except Empty:
            return False
        return True
