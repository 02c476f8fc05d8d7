"""Which of a fleet's hosts may shake hands, be set up, send a log: few at a time.

One rule: once the run is decided, nothing has precedence over the stop of a worker.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from cnd.transport.worker_output import LOUD_PAUSE

# Once the run is decided, everything but a message to a worker waits until all workers
# have stopped, or for this long.
STOP_FIRST = 2.0  # seconds
DECISION = 0.25  # seconds; the deciding thread takes in a find in a few milliseconds


class Turns:
    """The limits of one fleet on what is done at the same time; for any thread."""

    def __init__(self, instances: int, at_once: int, ending: threading.Event) -> None:
        """Begin with no host.

        Args:
            at_once: how many hosts may shake hands, be set up or send a log at a time.
            ending: set once the run is decided, or closed.
        """
        # A quarter of the fleet at a time: the first hosts begin to search the sooner,
        # and if one of them finds the nonce early, the others need not begin.
        quarter = max(2, instances // 4)
        self.set_up = threading.Semaphore(min(quarter, at_once))
        self._handshakes = threading.Semaphore(at_once)
        # Hundreds of threads that all have something to do delay each other.
        self.fetch = threading.Semaphore(at_once)
        # Hosts that exceed their allowance are read one at a time, and slowly.
        self._slowly = threading.Semaphore(1)
        self._ending = ending
        self._at_work = 0  # workers that start or search
        self.at_rest = threading.Event()  # the run is decided and all have stopped
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def handshake(self) -> Iterator[None]:
        """Wait until few others shake hands, or none has a worker to stop."""
        self.let_stop()
        with self._handshakes:
            yield

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count a worker that starts or searches."""
        self.note_work(+1)
        try:
            yield
        finally:
            self.note_work(-1)

    def note_work(self, change: int) -> None:
        """Count workers; once the run is decided, note whether all have stopped."""
        with self._lock:
            self._at_work += change
            if self._ending.is_set() and not self._at_work:
                self.at_rest.set()

    def let_stop(self, *, decides: bool = False) -> None:
        """Let the workers of a run that is decided stop before anything else.

        Args:
            decides: the caller has just put an event that decides most runs.
        """
        if self._ending.wait(DECISION if decides else 0):
            self.at_rest.wait(STOP_FIRST)

    def slow_down(self) -> bool:
        """Wait, for a host that exceeds its allowance; return whether to read on."""
        with self._slowly:
            self._ending.wait(LOUD_PAUSE)
        return not self._ending.is_set()
