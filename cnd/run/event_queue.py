"""Where all threads put their events, for the one thread that decides.

One rule: whoever puts is never held up, not even a signal handler that breaks into any
of this; so there is no lock, only queues.
"""

from __future__ import annotations

import contextlib
from queue import Empty, SimpleQueue

from cnd.model.events import PROGRESS, Event

MOST = 1000  # events that wait; whoever reads a host waits while there are more


class EventQueue:
    """Events in the order in which they came; progress waits to be fetched."""

    def __init__(self) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        # A ring for each event that is not progress.  It comes after its event: one
        # too many is a wait that ends early, one too few would be an event late.
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
        """Whether so much waits that what is not urgent should wait where it is."""
        return self._events.qsize() >= MOST

    def batch(self, seconds: float = 0.0) -> list[Event]:
        """Return what is there, up to the first event that is not progress.

        Waits for such an event, `seconds` at most: hundreds of workers report every
        second, and to wake for each of them would cost more than to take it in.
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
