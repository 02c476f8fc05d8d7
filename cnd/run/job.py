"""The life of a run: prepare, launch, search, stop, logs, scram.

One rule: whatever happens after the launch, the fleet is terminated and seen
terminated (unless the user keeps it, and even then its own timer ends it).  This is
the only module that knows all parts of a run; only its thread decides.  Every wait for
a disk, a view or a host has a limit; what need not be done before the fleet's end is
waited for after it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from typing import Any

from cnd import ec2, sqs
from cnd.cloud.connection import Cloud
from cnd.errors import UsageError
from cnd.model import replay
from cnd.model.events import Event
from cnd.model.outcome import Ending
from cnd.model.plan import Plan
from cnd.model.result import Result
from cnd.provision import capacity, launch
from cnd.provision.prepare import Provision, prepare, prepare_again
from cnd.run import first_nonces, index_tags, moving_in, status
from cnd.run.archive import Archive
from cnd.run.fleet_choice import judge, new_fleet, new_ssh_fleet
from cnd.run.instance_monitor import InstanceMonitor
from cnd.run.journal import ORDER, Journal
from cnd.run.journal_writer import DISK_PATIENCE
from cnd.run.orphan_reports import OrphanReports
from cnd.run.recorder import Recorder
from cnd.run.replacements import Replacements
from cnd.run.reuse import FleetLeft
from cnd.run.shutdown import LIMITS, POOL, Limits, Shutdown
from cnd.run.viewer import Viewer
from cnd.system import signals
from cnd.system.background import Pool, within
from cnd.transport import keys
from cnd.transport.fleet import END_PATIENCE, Fleet

# The workers keep the time limit themselves; this is how long their report may take.
TIME_LIMIT_GRACE = 0.5  # seconds
BUG_LOOK = 0.5  # seconds between two looks for threads that died


class Job:
    """One run of a plan on a cloud, from the main thread.

    Call either `execute` or `attach`, once.
    """

    def __init__(
        self,
        plan: Plan,
        cloud: Cloud,
        journal: Journal,
        *,
        view: Viewer,
        limits: Limits = LIMITS,
        began: float | None = None,
    ) -> None:
        """Prepare to run.

        Args:
            began: when the run began, on the monotonic clock; None: now.
        """
        self._cloud, self._journal, self._run = cloud, journal, journal.run
        self._recorder = recorder = Recorder(plan, journal, view=view, began=began)
        self._launcher = launch.Launcher(cloud, plan, self._run)
        self._pool = Pool(POOL, "cloud")
        self._replacements = Replacements(recorder, cloud, self._launcher, self._pool)
        self._shutdown = Shutdown(
            recorder,
            cloud,
            self._run,
            launcher=self._launcher,
            replacements=self._replacements,
            limits=limits,
        )
        self._reports = OrphanReports(
            recorder,
            cloud,
            self._run,
            judged=judge(recorder, journal),
            patience=limits.save,
        )
        self._archive = Archive(
            recorder, cloud, journal, reports=self._reports, patience=limits.save
        )
        self._background: list[Future[Any]] = []
        self._checking: Future[Event] | None = None  # the first nonces of the space
        # The result of a run that broke off after its decision.
        self.broken_off: Result | None = None
        self._listens_until = 0.0  # until then no worker is late
        self._next_search_for_bugs = 0.0

    @property
    def _plan(self) -> Plan:
        return self._recorder.plan

    def execute(
        self,
        key: keys.UserKey,
        *,
        bucket: str = "",
        strays: Callable[[], Iterable[str]] = tuple,
    ) -> Result:
        """Run to the end; raise `CndError` if the fleet could not be launched.

        Args:
            key: for the log-in to the instances.
            bucket: the user's own, for the logs; empty: CND's own.
            strays: returns a sentence for each run that goes on without an
                orchestrator; called beside the preparation, and waited for with it.

        Raises:
            CloudError: the cloud refused what a run needs.
            LeakError: the run broke off and instances may still be running.  After
                a run that did not break off, `Result.leaked` names them instead.
            KeyboardInterrupt: at a second Ctrl-C; the fleet is terminated.
        """
        plan, cloud = self._plan, self._cloud
        with self._signals():
            self._recorder.take(_started(self._run, plan, self._recorder.began))
            self._check_first_nonces()
            looking = self._pool.submit(strays)
            provision = prepare(cloud, plan, run=self._run, key=key, bucket=bucket)
            self._write_order(provision)
            self._recorder.take(*status.sightings(looking))
            return self._conduct(provision, self._launch)

    def search_on(self, left: FleetLeft, *, extend: bool) -> Result:
        """Search on a fleet that an earlier run left up; as `execute` from there on.

        Until the fleet is this run's, whatever fails leaves it as it was.

        Args:
            extend: whether its lifetime timers are to be set anew, to the plan's.

        Raises:
            UsageError: a host shows another key than the one of the fleet.
            CloudError, HostError: the cloud, or a host, refused what is needed.
        """
        plan, cloud, recorder = self._plan, self._cloud, self._recorder
        with self._signals():
            recorder.take(_started(self._run, plan, recorder.began))
            self._check_first_nonces()
            provision = prepare_again(
                cloud, plan, run=self._run, former=left.order.provision
            )
            fleet = new_ssh_fleet(recorder, cloud, self._journal, provision)
            with moving_in.undone(fleet, cloud, provision.queue):
                moving_in.reach(fleet, left)
                if extend:
                    moving_in.set_timers(fleet, cloud, left, plan, self._run)
                self._write_order(provision)
                recorder.take(moving_in.event(left, plan))
                moving_in.tag(cloud, left, self._run)
            return self._conduct(provision, partial(self._move_in, left), fleet)

    def attach(self, provision: Provision) -> Result:
        """Take over a run whose orchestrator died; as `execute` from there on.

        Events since its death are still on the hosts and are read there; of hosts that
        have ended themselves, the reports that they left in S3 are read.

        Raises:
            CloudError: the cloud does not answer; the run goes on as it was.
        """
        listed = ec2.find(self._cloud.ec2, run=self._run, states=ec2.ALL)
        events = list(self._journal.events())
        past = self._recorder.recall(list(self._journal.history()))
        # Those that are terminated lose their tags before they vanish.
        untagged = past.index.keys() - {instance.id for instance in listed}
        listed += ec2.look_up(self._cloud.ec2, untagged)
        self._replacements.expect(len(past.index) + replay.unanswered(events))
        with self._signals():
            if not self._recorder.search.checked:
                self._check_first_nonces()
            self._recorder.take(Event("run.attached", fields={"pid": os.getpid()}))
            begin = partial(self._take_up, listed, past.launched)
            return self._conduct(provision, begin)

    def _write_order(self, provision: Provision) -> None:
        """Write the order that a take-over needs; `UsageError` if that fails."""
        cloud, journal = self._cloud, self._journal
        order = {
            "cloud": cloud.name,
            "region": cloud.region,
            "account": cloud.account,
            "plan": asdict(self._plan),
            "provision": provision.to_json(),
        }
        try:
            within(DISK_PATIENCE, partial(journal.write_order, order))
        except TimeoutError as error:
            message = f"cannot write to {journal.folder}: {error}"
            hint = "set XDG_STATE_HOME to another folder"
            raise UsageError(message, hint=hint) from error

    def _conduct(
        self,
        provision: Provision,
        begin: Callable[[Provision, Fleet], None],
        fleet: Fleet | None = None,
    ) -> Result:
        """Begin; follow the run to its end; see its fleet terminated.

        The one place that guarantees it: whatever is raised, by a bug, by a lack of
        memory, by Ctrl-C at any moment, the fleet is terminated before it propagates.
        """
        try:
            return self._conducted(provision, begin, fleet)
        except SystemExit as error:  # a library's: its status is not CND's
            raise RuntimeError(f"a library ended the program: {error!r}") from error
        finally:
            if not self._shutdown.settled and (leak := self._shutdown.terminated()):
                raise leak

    def _conducted(
        self,
        provision: Provision,
        begin: Callable[[Provision, Fleet], None],
        fleet: Fleet | None,
    ) -> Result:
        shutdown, over = self._shutdown, self._recorder.over
        fleet = fleet or new_fleet(
            self._recorder, self._cloud, self._journal, provision
        )
        shutdown.arm(fleet.delay)
        try:
            begin(provision, fleet)
            self._follow(provision, fleet)
            shutdown.wind_down(provision.queue, fleet, partial(self._take_next, fleet))
            self._raise_bugs(fleet)
            self._recorder.mark("logged")
            over.set()  # from here on Ctrl-C interrupts nothing
        except BaseException as error:  # it is raised again, after the fleet's end
            over.set()
            shutdown.raised.append(error)
        keep = self._plan.keep and not shutdown.raised
        save = partial(self._archive.save, provision)
        leak = shutdown.end(provision.queue, fleet, keep=keep, save=save)
        shutdown.attempt(self._raise_bugs, fleet)
        if not shutdown.raised:
            return self._finish(provision)
        shutdown.attempt(shutdown.record_abort)
        if self._recorder.search.outcome or self._recorder.search.best:
            self.broken_off = self._finish(provision)
        if leak:
            raise leak from shutdown.raised[0]
        raise shutdown.raised[0]

    def _finish(self, provision: Provision) -> Result:
        result = self._archive.finish(provision, self._shutdown)
        self._pool.close(cancel=True)
        self._shutdown.pool.close(cancel=True)
        return result

    # --- launch

    def _launch(self, provision: Provision, fleet: Fleet) -> None:
        """Read the stop queue from now on, launch the fleet, and monitor it."""
        recorder, plan, launched = self._recorder, self._plan, []
        self._start(self._listen, provision.queue)
        if plan.hold:
            if recorder.linger(0):
                self._launcher.launch_group(provision, recorder.take)
                self._start(self._report_failures)
        else:
            launched = self._launcher.launch(
                provision,
                plan.instances,
                least=plan.min_instances,
                emit=recorder.take,
                wait=recorder.linger,
            )
        recorder.mark("launched")
        if launched and len(launched) < plan.instances and not recorder.search.outcome:
            self._divide_among(launched, provision, fleet)
        self._start(self._new_monitor(fleet).run)
        self._start(index_tags.tag, recorder, self._cloud, launched)

    def _divide_among(
        self, launched: list[ec2.Instance], provision: Provision, fleet: Fleet
    ) -> None:
        """Continue with fewer instances and classes; no worker has begun yet."""
        wanted = self._plan.instances
        plan = capacity.divided(self._plan, len(launched))
        self._recorder.divide(plan)
        self._rewrite_order(provision)
        fleet.divide(plan)
        for index, instance in enumerate(launched):
            self._recorder.search.see(launch.event(instance, index))
        fields = {"wanted": wanted, "instances": plan.instances}
        self._recorder.take(Event("fleet.reduced", fields=fields))

    def _rewrite_order(self, provision: Provision) -> None:
        """Write the order anew, or leave none: an outdated one would be wrong."""
        try:
            self._write_order(provision)
        except UsageError as error:
            self._recorder.trouble(error)
            path = self._journal.folder / ORDER
            with contextlib.suppress(OSError, TimeoutError):
                within(DISK_PATIENCE, partial(path.unlink, missing_ok=True))

    def _take_up(
        self,
        listed: list[ec2.Instance],
        launched: Mapping[str, float],
        provision: Provision,
        fleet: Fleet,
    ) -> None:
        """Take note of what is left of the fleet; monitor it and read the queue."""
        monitor, roster = self._new_monitor(fleet), self._recorder.roster
        self._reports.take_in(listed, launched, provision.bucket)
        monitor.catch_up(listed, roster.lost, roster.ended.keys(), launched)
        self._recorder.drain()
        self._recorder.mark("launched")
        self._listens_until = time.monotonic() + END_PATIENCE
        self._start(monitor.run)
        self._start(self._listen, provision.queue)
        if self._plan.hold:
            self._start(self._report_failures)

    def _move_in(self, left: FleetLeft, provision: Provision, fleet: Fleet) -> None:
        """Read the stop queue from now on; serve and monitor the fleet."""
        self._start(self._listen, provision.queue)
        for instance in left.instances:
            self._recorder.take(launch.event(instance, instance.index))
        self._recorder.mark("launched")
        monitor = self._new_monitor(fleet)
        monitor.take_up(left.instances)
        self._start(monitor.run)
        self._start(index_tags.tag, self._recorder, self._cloud, left.moved)

    def _new_monitor(self, fleet: Fleet) -> InstanceMonitor:
        self._monitor = InstanceMonitor(
            self._cloud,
            self._run,
            fleet,
            index=self._recorder.roster.index,
            parts=self._recorder.parts,
            adopts=self._replacements.adopts,
            put=self._recorder.put,
            over=self._recorder.over,
        )
        return self._monitor

    # --- in the background

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        """Do `work` in the background; `_take_next` raises what it raises."""
        self._background.append(self._pool.submit(work, *arguments))

    def _listen(self, queue: str) -> None:
        """Request the end with each message on the stop queue."""
        recorder = self._recorder

        def message(text: str) -> None:
            if "decided" in recorder.marks or recorder.over.is_set():
                return  # the reason that this run has sent to other readers
            fields = {"by": "queue", "text": text[:200]}
            recorder.put(Event("run.stop_requested", fields=fields))
            self._shutdown.hasten()

        sqs.listen(
            self._cloud.sqs,
            queue,
            closing=recorder.over,
            message=message,
            trouble=recorder.trouble,
        )

    def _report_failures(self) -> None:
        """Report why the group launches too few: the wait must not be silent."""
        roster, over = self._recorder.roster, self._recorder.over
        self._launcher.report_failures(
            self._recorder.put,
            lambda: self._plan.instances - len(roster.index) + len(roster.lost),
            lambda seconds: not over.wait(seconds),
        )

    def _check_first_nonces(self) -> None:
        """Begin to test them here, unless the user's own worker searches."""
        if not self._plan.script:
            self._checking = Pool(1, "check").submit(
                first_nonces.at_low_priority, self._plan
            )

    def _note_first_nonces(self) -> None:
        """Take in which of them are golden, once that is known."""
        if self._checking and self._checking.done():
            checked, self._checking = self._checking.result(), None
            self._recorder.search.awaits_check = False
            self._recorder.take(checked)

    # --- search

    def _follow(self, provision: Provision, fleet: Fleet) -> None:
        """Take in events until the run is decided."""
        recorder = self._recorder
        recorder.search.awaits_check = self._checking is not None
        while not recorder.search.outcome:
            self._take_next(fleet)
            self._replacements.go_on(provision, fleet, self._monitor.served)
            self._check_clock()

    def _take_next(self, fleet: Fleet) -> None:
        """Take in events until one may need a decision, or a tick is over."""
        self._note_first_nonces()
        self._recorder.take_next()
        if time.monotonic() >= self._next_search_for_bugs:
            self._raise_bugs(fleet)

    def _raise_bugs(self, fleet: Fleet) -> None:
        """Raise what ended a thread; not checked after every event: they are many."""
        self._next_search_for_bugs = time.monotonic() + BUG_LOOK
        launches = self._replacements.launches
        raise_bugs([*self._background, *launches, *fleet.threads])
        if self._recorder.writer.error:
            raise self._recorder.writer.error

    def _check_clock(self) -> None:
        """Decide, if the time limit or the wait for the fleet is over."""
        search, plan, roster = self._recorder.search, self._plan, self._recorder.roster
        now, marks = time.monotonic(), self._recorder.marks
        if (began := marks.get("searching")) is not None:
            over = began + plan.time_limit + TIME_LIMIT_GRACE
            if now < max(over, self._listens_until):
                return
            if search.failed:
                search.give_up()
            search.decide(Ending.TIMEOUT, f"{plan.time_limit:g} s are over")
        elif (
            not roster.index and now >= marks["launched"] + self._replacements.patience
        ):
            search.decide(Ending.INCOMPLETE, self._launcher.nothing_launched)
        elif now >= (
            max(marks["launched"], roster.last_arrival)
            + plan.boot_allowance
            + END_PATIENCE
        ):
            reason = f"no instance answered within {plan.boot_allowance:.0f} s"
            search.decide(Ending.INCOMPLETE, reason)

    def _signals(self) -> contextlib.AbstractContextManager[None]:
        """Let signals such as Ctrl-C request the end, and confirm each at once."""
        recorder = self._recorder

        def request(text: str) -> None:
            fields = {"by": "signal", "text": text}
            recorder.put(Event("run.stop_requested", fields=fields))
            self._shutdown.hasten()
            recorder.view.answer(f"stopping: {text}; again: terminate at once")

        return signals.forwarded(request, recorder.over.is_set)


def raise_bugs(futures: Iterable[Future[Any]]) -> None:
    """Raise what ended a thread: a bug, since failures arrive as events."""
    for future in futures:
        if future.done() and not future.cancelled():
            future.result()


def _started(run: str, plan: Plan, began: float) -> Event:
    """Return the event that begins a run; `began` is on the monotonic clock."""
    fields = {
        "run": run,
        "block": plan.block,
        "difficulty": plan.difficulty,
        "instances": plan.instances,
        "nonces": plan.nonces,
        "time_limit": plan.time_limit,
        "type": plan.instance_type,
        "lifetime": plan.lifetime,
        "script": plan.script,
        "smallest": plan.smallest,
        **(_resumed(plan) if plan.chain else {}),
    }
    wall = time.time() - (time.monotonic() - began)
    return Event("run.started", fields=fields, time=wall)


def _resumed(plan: Plan) -> dict[str, object]:
    names = ("chain", "tested_before", "known", "work")
    return {name: getattr(plan, name) for name in names}
