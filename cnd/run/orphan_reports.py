"""The reports of orphans in S3, taken in when a run is taken over.

One rule: a report comes from another machine, and is taken in as a worker's events are,
within limits and as far as it is proved; and before the loss of its instance, since its
classes may have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError
from cnd.model import replay
from cnd.model.claim import objection_to
from cnd.model.events import Event, trouble
from cnd.run.recorder import Recorder, failure
from cnd.system.background import within
from cnd.transport import orphans


class OrphanReports:
    """Reads the reports of one run's orphans."""

    def __init__(
        self,
        recorder: Recorder,
        cloud: Cloud,
        run: str,
        *,
        judged: Callable[[Event], Event],
        patience: float,
    ) -> None:
        """Prepare to read.

        Args:
            judged: adds the verdict to a claim of the user's own worker.
            patience: seconds for S3 to send all reports.
        """
        self._recorder, self._cloud, self._run = recorder, cloud, run
        self._judged, self._patience = judged, patience
        # On the monotonic clock: when the latest report was left.
        self._last_sign: float | None = None

    def take_in(
        self,
        listed: Iterable[ec2.Instance],
        launched: Mapping[str, float],
        bucket: str,
    ) -> None:
        """Take in the reports of instances that ended without an orchestrator.

        Args:
            listed: what the cloud still knows of the fleet.
            launched: when each instance was launched, seconds since the epoch.
        """
        recorder, roster = self._recorder, self._recorder.roster
        ended = replay.ended(
            {instance.id: instance.state for instance in listed},
            launched,
            time.time(),
            listed_within=self._cloud.listed_within,
        )
        places = [
            orphans.Place(host, i, {p.name: p.index for p in recorder.parts(host)})
            for host, i in roster.index.items()
            if host in ended and host not in roster.lost
        ]
        read = partial(orphans.left, self._cloud.s3, bucket, self._run, places)
        try:
            reports = within(self._patience, read)
            for place, left in zip(places, reports, strict=True):
                self._take(place, left, ended[place.host])
            if places:
                self.take_claim(bucket)
        except (CloudError, TimeoutError) as error:
            recorder.take(trouble(failure(error)))
        if roster.index.keys() <= roster.lost | ended.keys():
            recorder.ended_at = self._last_sign

    def _take(
        self, place: orphans.Place, left: orphans.Left | CloudError | None, state: str
    ) -> None:
        recorder = self._recorder
        if isinstance(left, CloudError):
            recorder.take(trouble(left))
        elif left:
            recorder.take(*map(self._judged, filter(self._is_news, left.events)))
            at = round(time.time() - left.age, 3)
            fields = {"state": state, "at": at}
            recorder.take(Event("instance.lost", place.index, place.host, fields))
            sign = time.monotonic() - left.age
            self._last_sign = max(sign, self._last_sign or sign)

    def _is_news(self, event: Event) -> bool:
        """Whether an event of a report may be new."""
        begun = self._recorder.search.classes[event.index or 0].started
        return not (begun and event.kind == "worker.started")

    def take_claim(self, bucket: str) -> None:
        """Take in what an orphan claims in S3 to have found; from any thread."""
        recorder = self._recorder
        owner = recorder.plan.owners.of
        if claim := orphans.claim(self._cloud.s3, bucket, self._run, owner):
            claim = self._judged(claim)
            # Any instance may have put a false one: no worker is blamed for it.
            recorder.put(objection_to(recorder.plan, claim) or claim)
