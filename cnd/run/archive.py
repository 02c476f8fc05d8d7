"""The logs and the result of a run: on this disk, and in S3.

One rule: any write may fail, and costs the copy only; every wait here has a limit, and
nothing is reported to be in S3 that was not put there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from concurrent.futures import wait
from dataclasses import replace
from functools import partial
from pathlib import Path

from cnd import s3logs
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError, CndError
from cnd.model import system_log
from cnd.model.billing import LAUNCHED, spent
from cnd.model.events import Event, trouble
from cnd.model.outcome import Ending, Outcome
from cnd.model.result import Result
from cnd.model.search_state import evidence, repeated_at_most, unproved
from cnd.provision.capacity import bucket_pause
from cnd.provision.prepare import Provision
from cnd.provision.retry import again
from cnd.run.event_files import EVENTS
from cnd.run.journal import RESULT, Journal
from cnd.run.journal_writer import DISK_PATIENCE
from cnd.run.orphan_reports import OrphanReports
from cnd.run.recorder import LAST_PATIENCE, Recorder, failure
from cnd.run.shutdown import Shutdown
from cnd.system import private_files
from cnd.system.background import NotDone, within


class Archive:
    """Saves the logs, events and result of a run."""

    def __init__(
        self,
        recorder: Recorder,
        cloud: Cloud,
        journal: Journal,
        *,
        reports: OrphanReports,
        patience: float,
    ) -> None:
        """Prepare to save a run.

        Args:
            patience: seconds for S3 to take what is uploaded at one time.
        """
        self._recorder, self._cloud, self._journal = recorder, cloud, journal
        self._reports, self._patience = reports, patience
        self._saved: bool | None = None  # whether all logs are in S3; None: not known

    def save(self, provision: Provision) -> None:
        """Save all logs that can be had, here and in S3."""
        recorder = self._recorder
        if "decided" in recorder.marks and (
            recorder.roster.lost or recorder.search.failed
        ):
            try:
                self._fetch_left_logs(provision)
            except (CloudError, OSError) as error:
                recorder.trouble(error)
        self._saved = self._upload(provision)

    def _fetch_left_logs(self, provision: Provision) -> None:
        """Fetch the logs that orphans have left in S3, and their claim."""
        recorder = self._recorder
        s3, bucket, run = self._cloud.s3, provision.bucket, self._journal.run
        for host, index in list(recorder.roster.index.items()):
            path = self._journal.log(f"Instance{index}")
            if host not in recorder.roster.lost or path.exists():
                continue
            name = s3logs.LOGS + path.name
            most = system_log.most_of(recorder.plan.instances)
            if found := s3logs.fetch_log(s3, bucket, run, name, most=most):
                private_files.write(path, found[0])
                fields = {"path": str(path), **found[1].fields}
                recorder.put(Event("log.pulled", index, host, fields))
        if not recorder.search.best:
            self._reports.take_claim(bucket)

    def _upload(self, provision: Provision) -> bool:
        """Upload the logs; return whether there are any, and all are in S3."""
        logs: dict[str, Path] = {}
        failures: Mapping[str, CndError]
        try:
            for path in sorted(self._journal.logs.glob("[!.]*")):
                logs[s3logs.LOGS + path.name] = path
            failures = self._put(provision, logs)
        except OSError as error:
            failures = {str(self._journal.logs): failure(error)}
        for first in list(failures.values())[:1]:
            self._recorder.trouble(first)
        if count := len(logs.keys() - failures.keys()):
            fields = {"bucket": provision.bucket, "count": count}
            self._recorder.put(Event("logs.uploaded", fields=fields))
        return bool(logs) and not failures

    def _put(
        self, provision: Provision, files: Mapping[str, Path]
    ) -> Mapping[str, CndError]:
        """Upload files; return the failures: of all files, if the bucket is refused."""
        s3, bucket, owner = self._cloud.s3, provision.bucket, provision.owner
        try:
            provision.bucket_made.result(timeout=self._patience)
            if self._recorder.attached:  # whether it was finished then is not known
                s3logs.check_finished(s3, bucket, owner)
        except (CloudError, NotDone) as error:
            return dict.fromkeys(files, failure(error))
        left, failures = files, dict[str, CloudError]()

        def put() -> None:
            nonlocal left, failures
            failures = s3logs.upload(s3, bucket, self._journal.run, left, owner=owner)
            left = {name: files[name] for name in failures}
            for first in failures.values():
                raise first

        with contextlib.suppress(CloudError):  # `failures` has it
            again(put, hopeless=self._cloud.gone, pause=bucket_pause)
        return failures

    def finish(self, provision: Provision, shutdown: Shutdown) -> Result:
        """Write the result, and upload it with the events."""
        recorder = self._recorder
        result = self._result(provision, shutdown)
        ending = result.outcome.ending
        fields = {"outcome": ending.outcome, "reason": result.outcome.reason}
        recorder.take(Event("run.ended", fields=fields))
        answered = recorder.writer.settle(LAST_PATIENCE)
        try:
            write = partial(self._journal.write_result, result.to_json())
            within(DISK_PATIENCE, write)
        except (CndError, TimeoutError) as error:
            recorder.view.show(trouble(failure(error)))
        else:
            with contextlib.suppress(OSError):
                self._journal.progress.remove()
            names = [EVENTS, RESULT] if answered else [RESULT]
            self._copy(provision, names, shutdown)
        return result

    def _copy(
        self, provision: Provision, names: Iterable[str], shutdown: Shutdown
    ) -> None:
        """Upload files of the run's folder, unless the bucket did not answer before."""
        if self._saved is not None:
            files = {name: self._journal.folder / name for name in names}
            copying = shutdown.pool.submit(self._put, provision, files)
            wait([copying], timeout=self._patience)

    def _result(self, provision: Provision, shutdown: Shutdown) -> Result:
        recorder, cloud, run = self._recorder, self._cloud, self._journal.run
        search, plan = recorder.search, recorder.plan
        outcome = search.outcome or search.best or Outcome(Ending.INCOMPLETE, "aborted")
        in_s3 = f"s3://{provision.bucket}/{s3logs.prefix(run)}" if self._saved else None
        if plan.work and outcome.host:  # its class says nothing of its instance
            outcome = replace(outcome, index=recorder.roster.index.get(outcome.host))
        return Result(
            run=run,
            cloud=cloud.name,
            region=cloud.region,
            outcome=outcome,
            block=plan.block,
            difficulty=None if plan.script else plan.difficulty,
            instances=plan.instances,
            asked=plan.asked or plan.instances,
            fleet=[
                {"id": e.host, "index": e.index, **e.fields}
                for e in recorder.receipt
                if e.kind == LAUNCHED
            ],
            tested=search.tested if search.counted else None,
            repeated=search.repeated,
            repeated_at_most=repeated_at_most(search),
            coverage=search.coverage,
            hash_rate=search.hash_rate or None,
            kernel=", ".join(search.kernels) or None,
            seconds=recorder.seconds,
            usd=spent(plan, [*recorder.receipt, Event("run.ended")]),
            logs_local=str(self._journal.logs),
            logs_s3=in_s3,
            terminated=recorder.roster.ended,
            kept=shutdown.kept,
            leaked=shutdown.leaked,
            smallest=search.smallest,
            evidence=evidence(search),
            unproved=unproved(search.plan),
            plan=plan,
            tested_in_all=(
                plan.tested_before + search.tested - search.repeated
                if search.counted
                else None
            ),
        )
