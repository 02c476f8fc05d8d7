"""What workers may have tested after their last report that arrived: at most how much.

A host that is lost, or whose orchestrator was killed, takes its latest work with it.
Another worker tests that again, and nothing can tell how much it was.  What can be told
is a limit: the rate of the worker, times the longest time that it can have searched
since its last report.

All times here are of the orchestrator's clock.  A worker that reports `seconds` of
search did so no earlier than these after its host was ready.

One rule: pure; a limit errs upwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from cnd.model.class_progress import REPORTED, WAITING, ClassProgress
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.model.s3_requests import POLLS_PER_SECOND, pace

# A worker ends this soon after EC2 has begun to end its instance: a shutdown begins
# with SIGTERM to all programs.
SHUTS_DOWN = 5.0  # seconds
FAILURES = ("host.failed", "host.done", "worker.failed")


class LastSigns:
    """When workers can have begun at the earliest, and ended at the latest."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._interval = plan.progress  # seconds between two reports
        if plan.without_ssh:
            self._interval += pace(plan.instances, POLLS_PER_SECOND).every
        # By class: the host, since when it can search, and whether it was ready then.
        self._began: dict[int, tuple[str, float, bool]] = {}
        self._ended: dict[str, float] = {}  # by instance
        self._all_ended = math.inf
        self._rates: dict[int, float] = {}  # of a class when its worker was lost

    def note(self, event: Event, classes: Mapping[int, ClassProgress]) -> None:
        """Take in an event of any kind, before it changes the classes.

        One that gives a class to a host is for `begin`.
        """
        kind, index, host = event.kind, event.index, event.host or ""
        if kind == "instance.lost":
            self._end(host, event.time + SHUTS_DOWN)
        elif kind == "instance.terminated":
            self._end(host, event.time)
        elif kind == "run.aborted" and not event.fields.get("left"):
            self._all_ended = event.time
        elif index not in classes or index is None:
            return
        elif kind == "instance.ready" and not self._plan.without_ssh:
            known, _, ready = self._began.get(index, (host, 0.0, False))
            if known == host and not ready:  # again: another orchestrator came to it
                self._began[index] = host, event.time, True
        elif kind in FAILURES and classes[index].rate:
            self._rates[index] = classes[index].rate

    def begin(self, index: int, event: Event) -> None:
        """Note that a class was given to a host; after `at_most` for the one before."""
        self._began[index] = event.host or "", event.time, False

    def _end(self, host: str, at: float) -> None:
        self._ended[host] = min(at, self._ended.get(host, math.inf))

    def at_most(self, index: int, classes: Mapping[int, ClassProgress]) -> float:
        """Return how many nonces the worker of a class can have tested unreported.

        Infinity where no worker has reported a rate.  Of a worker that made a false
        claim nothing counts, here either.
        """
        progress = classes[index]
        if not progress.host or progress.distrusted or progress.ended == WAITING:
            return 0
        if progress.ended in REPORTED:
            return 0
        rate = max(
            progress.rate,
            self._rates.get(index, 0.0),
            progress.tested / progress.seconds if progress.seconds else 0.0,
        ) or max((each.rate for each in classes.values()), default=0.0)
        seconds = self._silence(index, progress)
        return math.ceil(rate * seconds) if rate else math.inf

    def _silence(self, index: int, progress: ClassProgress) -> float:
        """Return the seconds of search after a last report, at most."""
        plan = self._plan
        longest = max(0.0, plan.time_limit - progress.seconds)
        end = min(self._ended.get(progress.host, math.inf), self._all_ended)
        host, began, _ = self._began.get(index, ("", 0.0, False))
        if host == progress.host and end < math.inf:
            # Where this machine's clock was set, an interval all the same.
            since = max(self._interval, end - (began + progress.seconds))
            longest = min(longest, since)
        return longest
