"""How long hosts are waited for: handshake, boot, return after a loss, log.

One rule: it only computes times; it waits for nothing and decides nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from cnd.model.plan import Plan
from cnd.transport.fleet import END_PATIENCE

HANDSHAKE_TIMEOUT = 15.0  # seconds for banner and for authentication, each

# A connection that dropped is taken up again within this time, or the host is lost
# and its class goes on elsewhere.
LOST_PATIENCE = 2.0  # seconds

# After the stop, logs that are on their way are cut to what has come by then, so that
# they are written before the run's limit for its end: `shutdown.Limits.end`.
LOGS_PATIENCE = 50.0  # seconds


def within(seconds: float) -> Callable[[], float]:
    """Return a deadline for `Host.connect`, `seconds` from now."""
    deadline = time.monotonic() + seconds
    return lambda: deadline


class Deadlines:
    """Deadlines of one run, on the monotonic clock; for any thread."""

    def __init__(
        self,
        plan: Plan,
        ending: threading.Event,
        search_began: Callable[[], float | None],
    ) -> None:
        """Begin before the launch.

        Args:
            ending: set once the run is decided, or closed.
            search_began: returns when the search of a run that is taken over began, on
                the monotonic clock, as far as that is known by now.
        """
        self.plan = plan
        self.logs_by = math.inf  # when every log is late, once the run is decided
        self._ending, self._known_began = ending, search_began
        self._began = math.inf  # when the search began, by this process
        self._booted_by: dict[str, float] = {}  # until when an instance is waited for
        self._ended_by = math.inf  # the same for all, once the run is decided
        self._answered: set[str] = set()  # instances that SSH has reached before
        self._lock = threading.Lock()

    def expect(self, instance_id: str) -> None:
        """Begin an instance's boot allowance, unless it has begun."""
        deadline = time.monotonic() + self.plan.boot_allowance
        self._booted_by.setdefault(instance_id, deadline)

    def end(self) -> None:
        """Bring the deadlines forward: the run is decided.  Before `ending` is set."""
        self._ended_by = time.monotonic() + END_PATIENCE
        self.logs_by = time.monotonic() + LOGS_PATIENCE

    def note_answer(self, instance_id: str) -> None:
        """Note that an instance has booted.

        After the end, each answer extends the wait for those that have not booted.
        """
        with self._lock:
            self._answered.add(instance_id)
            if self._ending.is_set():
                self._ended_by = time.monotonic() + END_PATIENCE

    def of_first_answer(self, instance_id: str) -> Callable[[], float]:
        """Return until when to wait for an instance: it boots, unless it did answer."""
        if instance_id in self._answered:
            return within(LOST_PATIENCE)
        return lambda: min(self._booted_by[instance_id], self._ended_by)

    def of_return(self) -> float:
        """Return until when a lost host may return: then nothing is left to do."""
        if self._ending.is_set():
            return self._ended_by
        return time.monotonic() + max(0.0, self.remaining())

    def remaining(self) -> float:
        """Return the seconds of search that are left; the first call starts them."""
        return self.plan.time_limit - (time.monotonic() - self.search_began())

    def search_began(self) -> float:
        """Return when the search began: at the first call, unless that is known."""
        with self._lock:
            self._began = min(self._began, time.monotonic())
            known = self._known_began()
            return self._began if known is None else known
