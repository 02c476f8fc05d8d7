"""The life of a run: prepare, launch, race, stop, logs, scram.

One rule: whatever happens after the launch, the fleet is terminated and seen
terminated (unless the user keeps it, and even then its own timer ends it).  This is
the only place with the whole picture; only its thread decides.  It waits for no disk,
view or host without a limit, and for none before the fleet's end that can wait until
after it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cnd import (
    capacity,
    ec2,
    keys,
    launch,
    orphans,
    own,
    payload,
    private,
    pull,
    recheck,
    s3logs,
    signals,
    sqs,
    takeover,
)
from cnd.again import again
from cnd.aside import NotDone, Pool, begin, within
from cnd.cloud import Cloud
from cnd.cost import ENDS, LAUNCHED, RUNNING, spent
from cnd.crew import Crew
from cnd.errors import CloudError, CndError, LeakError, UsageError
from cnd.events import LAST_WORDS, Event, trouble
from cnd.fleet import END_PATIENCE, Fleet, Part
from cnd.inbox import Inbox
from cnd.journal import DURABLE, EVENTS, ORDER, RESULT, Journal
from cnd.mailbox import Mailbox
from cnd.plan import Plan
from cnd.provision import Provision, prepare
from cnd.race import Ending, Outcome, Race, refutation
from cnd.record import DISK_PATIENCE, MINOR, Record
from cnd.result import Result, Seconds
from cnd.scram import scram
from cnd.terminator import Terminator, insist
from cnd.view import Viewer
from cnd.watch import Watch

# The workers keep the time limit themselves; this is how long their word may take.
TIME_LIMIT_GRACE = 0.5  # seconds
# A termination that was begun is begun a second time by the guard, if the fleet was not
# seen gone so soon, and is given up at last, seconds after its beginning.
SECOND_TRY, GIVE_UP = 60.0, 900.0
CLOSE_LIMIT = 2.0  # seconds for the connections to close
LAST_PATIENCE = 3.0  # seconds for the last events to be on disk, before it is copied
DRAIN_LIMIT = 2.0  # seconds to take in what the threads put last
TICK = 0.1  # seconds between two looks at the clock
BUG_LOOK = 0.5  # seconds between two looks for threads that died
# An Auto Scaling group notices a loss within a minute or two, and boots another.
HOLD_PATIENCE = 240.0  # seconds
# What the receipt is made of.
RECEIPT = frozenset({LAUNCHED, RUNNING, *ENDS, "run.ended"})
POOL = 8  # calls to the cloud besides those of the deciding thread, at a time
# A courtesy, one call each.
TAGGED = 64  # instances, at most, that get their index as a tag
TAG_LATEST = 60.0  # seconds after the launch


@dataclass(frozen=True)
class Limits:
    """How long the end of a run may take, whatever hangs; in seconds."""

    end: float = 60.0  # for stop and logs together, until the fleet is terminated
    # The guard terminates it so long after that, or after the run broke off, if the
    # deciding thread has not: see `Terminator`.
    guard: float = 15.0
    # What comes after the fleet's end must not keep the program from its own.
    save: float = 60.0


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
        limits: Limits = Limits(),
    ) -> None:
        self._plan, self._limits = plan, limits
        self._cloud = cloud
        self._journal = journal
        self._run = journal.run
        self._view = view  # called from this thread only
        self.race = Race(plan)
        self._inbox = Inbox()
        self._record = Record(journal, self._inbox.put)
        self._receipt: list[Event] = []  # the events of `RECEIPT`
        self._guard = Terminator(self._strike)
        # Nothing is launched, or the fleet is terminated, kept, or named as a leak.
        self._settled = True
        self._broke: list[BaseException] = []  # to be raised after the fleet's end
        self._delay = 0.0  # see `Fleet.delay`
        self._unseen: deque[Event] = deque()  # of the batch that is being taken in
        self._over = threading.Event()  # the background threads end
        self._pool = Pool(POOL, "cloud")
        self._late = Pool(POOL, "end")  # as above, for what comes at the end
        self._background: list[Future[Any]] = []
        self._crew = Crew()
        self._checking: Future[Event] | None = None  # the first nonces of the space
        self._attached = False
        self._clock: takeover.SearchClock | None = None  # of a run that is taken over
        self._boot: float | None = None  # seconds until its search began
        # Of what a former orchestrator launched: replacements, and the next place.
        self._bought, self._next_place = 0, 0
        self._replacing: list[Future[bool]] = []  # launches: whether it is there
        self._on_disk: dict[int, Event] = {}  # see `_tell_durably`
        self._launcher = launch.Launcher(cloud, plan, self._run)
        # What came of it, where it broke off after its decision.
        self.broken_off: Result | None = None
        self._kept: tuple[str, ...] = ()
        self._leaked: tuple[str, ...] = ()
        self._s3: str | None = None
        self._saved: bool | None = None  # whether all logs are in S3; None: not known
        self._began = time.monotonic()
        self._marks: dict[str, float] = {}
        self._hear_out = 0.0  # until then nobody is called late
        self._next_search_for_bugs = 0.0
        # So many instances has a former orchestrator asked for, and until then those of
        # which it has not heard may yet be listed.
        self._expected, self._listed_by = 0, 0.0
        # Of a fleet that ended while nobody followed, on the monotonic clock: when it
        # was last heard of, and that again, if nothing of it lives.
        self._last_sign: float | None = None
        self._over_at: float | None = None

    def execute(self, key: keys.UserKey, *, bucket: str = "") -> Result:
        """Run to the end; raise `CndError` if it could not even be launched.

        Args:
            key: opens the instances.
            bucket: the user's own, for the logs; empty for CND's own.

        Raises:
            CloudError: the cloud refused what a run needs.
            LeakError: the run broke off and instances may still be running.  After
                a run that did not break off, `Result.leaked` says so instead.
            KeyboardInterrupt: asked for twice; the fleet is terminated.
        """
        plan, cloud = self._plan, self._cloud
        with self._signals():
            self._take(
                Event("run.started", fields={"run": self._run, **_described(plan)})
            )
            self._check_first_nonces()
            provision = prepare(cloud, plan, run=self._run, key=key, bucket=bucket)
            self._write_order(provision)
            return self._conduct(provision, self._launch)

    def _write_order(self, provision: Provision) -> None:
        """Write what taking the run over needs; `UsageError` if that cannot be."""
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

    def attach(self, provision: Provision) -> Result:
        """Take over a run whose orchestrator died; as `execute` from there on.

        What was said while nobody listened is still on the hosts and is read there;
        of hosts that have ended themselves, what they left in S3 is read.

        Raises:
            CloudError: the cloud does not answer; the run goes on as it was.
        """
        listed = ec2.find(self._cloud.ec2, run=self._run, states=ec2.ALL)
        told = list(self._journal.events())
        self._receipt = [event for event in told if event.kind in RECEIPT]
        past = takeover.recall(self._plan, told)
        self.race, self._attached = past.race, True
        self._crew = Crew(
            past.index, lost=past.lost, unfit=past.unfit, ended=past.ended
        )
        now = time.monotonic()
        self._clock = takeover.SearchClock(past.searched, now)
        self._boot, self._began = past.boot, now - past.lasted
        self._set_search_began()
        unheard = takeover.unanswered(told)
        self._expected = len(past.index) + unheard
        self._listed_by = time.monotonic() + self._cloud.listed_within
        with self._signals():
            if not self.race.checked:
                self._check_first_nonces()
            self._take(Event("run.attached", fields={"pid": os.getpid()}))
            begin = partial(self._take_up, listed, past.launched)
            return self._conduct(provision, begin)

    def _conduct(
        self, provision: Provision, begin: Callable[[Provision, Fleet | Mailbox], None]
    ) -> Result:
        """Begin; follow the run to its end; see its fleet ended.

        The one place that guarantees it: whatever is raised, a bug of ours, no memory
        or Ctrl-C at an odd moment, the fleet is terminated before it is raised.
        """
        try:
            return self._conducted(provision, begin)
        except SystemExit as error:  # a library's, whose status is none of ours
            raise RuntimeError(f"a library ended the program: {error!r}") from error
        finally:
            if not self._settled and (leak := self._terminated()):
                raise leak

    def _conducted(
        self, provision: Provision, begin: Callable[[Provision, Fleet | Mailbox], None]
    ) -> Result:
        fleet = self._new_fleet(provision)
        self._delay = fleet.delay
        self._guard.expect(self._plan.lifetime + self._limits.end)
        self._settled = False
        try:
            begin(provision, fleet)
            self._follow(provision, fleet)
            self._wind_down(provision, fleet)
            self._over.set()  # from here on Ctrl-C cuts nothing short
        except BaseException as error:  # it is raised again, after the fleet's end
            self._over.set()
            self._broke.append(error)
        leak = self._end(provision, fleet, keep=self._plan.keep and not self._broke)
        self._attempt(self._raise_bugs, fleet)
        if not self._broke:
            return self._finish(provision)
        self._attempt(self._tell_abort)
        if self.race.outcome or self.race.best:
            self.broken_off = self._finish(provision)
        if leak:
            raise leak from self._broke[0]
        raise self._broke[0]

    def _attempt(self, work: Callable[..., object], *arguments: object) -> None:
        """Do what must keep the fleet from nothing: what it raises is raised later."""
        try:
            work(*arguments)
        except BaseException as error:
            self._broke.append(error)

    def _new_fleet(self, provision: Provision) -> Fleet | Mailbox:
        if self._plan.unreached:
            return Mailbox(
                self._plan,
                self._journal,
                self._cloud.s3,
                provision.bucket,
                put=self._inbox.put,
                owner=provision.owner,
                polls_per_second=self._cloud.polls_per_second,
                search_began=self._search_began,
            )
        alone = orphans.orders(
            self._cloud.s3,
            provision.bucket,
            self._run,
            seconds=self._plan.lifetime,
            # A group would replace what shuts itself down; it ends with its own timer.
            shutdown=not (self._plan.keep or self._plan.hold),
            spot=self._plan.market != "on-demand",
            patience=self._cloud.orphan_patience,
            refused=lambda: provision.bucket_refused,
        )
        return Fleet(
            self._plan,
            self._journal,
            provision.login,
            code=self._code,
            alone=alone,
            put=self._hear,
            at_once=self._cloud.hosts_at_once,
            search_began=self._search_began,
        )

    def _hear(self, event: Event) -> None:
        """Take an event of a host, in its thread: what is not urgent may wait."""
        while event.kind in MINOR and self._inbox.full:
            if self._over.wait(TICK):
                return
        self._inbox.put(self._judged(event))

    @property
    def _script(self) -> Path:
        """The copy of somebody's own worker in the run's folder."""
        return self._journal.folder / self._plan.script

    def _search_began(self) -> float | None:
        """When an old run's search began, on the monotonic clock; None: not known."""
        return self._clock.began if self._clock else None

    def _judged(self, event: Event) -> Event:
        """Return a claim of somebody's own worker with the verdict on it.

        Called in the thread of the host that claims it: the check may take seconds.
        """
        plan, index = self._plan, event.index or 0
        if not plan.script or event.kind != "worker.found" or self.race.best:
            return event
        if refutation(plan, index, event.fields.get("nonce")):
            return event  # it lies outside its class: no need to ask
        return own.judged(event, self._script, plan.words)

    def _code(self, machine: str) -> Mapping[str, bytes]:
        if self._plan.script:
            return payload.code_with(self._script)
        return payload.code(machine, self._plan.kernel)

    # --- launch and race

    def _launch(self, provision: Provision, fleet: Fleet | Mailbox) -> None:
        """Buy the fleet, listening to the stop queue from before, and watch it."""
        plan, launched = self._plan, []
        self._go_on(self._listen, provision.queue)
        if plan.hold:
            if self._linger(0):
                self._launcher.hold(provision, self._take)
                self._go_on(self._tell_failures)
        else:
            launched = self._launcher.launch(
                provision,
                plan.instances,
                least=plan.fewest,
                tell=self._take,
                wait=self._linger,
            )
        self._mark("launched")
        if launched and len(launched) < plan.instances and not self.race.outcome:
            self._divide_among(launched, provision, fleet)
        self._go_on(self._new_watch(fleet).run)
        if plan.instances <= TAGGED:
            self._go_on(self._tag, launched)

    def _check_first_nonces(self) -> None:
        """Begin to test them here, unless a worker of the user's own searches."""
        if not self._plan.script:
            self._checking = Pool(1, "check").submit(recheck.aside, self._plan)

    def _note_first_nonces(self) -> None:
        """Take in what is golden among them, once that is known."""
        if self._checking and self._checking.done():
            checked, self._checking = self._checking.result(), None
            self.race.awaits_check = False
            self._take(checked)

    def _linger(self, seconds: float) -> bool:
        """Take in events for so long; return whether the run is to go on."""
        deadline = time.monotonic() + seconds
        while not self.race.outcome:
            left = max(0.0, deadline - time.monotonic())
            if batch := self._inbox.batch(min(TICK, left)):
                self._take(*batch)
                continue
            self._view.tick(self.race)
            if time.monotonic() >= deadline:
                return True
        return False

    def _divide_among(
        self, launched: list[ec2.Instance], provision: Provision, fleet: Fleet | Mailbox
    ) -> None:
        """Make do with fewer instances: as many classes, and nothing has begun yet."""
        wanted = self._plan.instances
        self._plan = plan = capacity.divided(self._plan, len(launched))
        self._rewrite_order(provision)
        fleet.divide(plan)
        self.race = Race(plan)
        for index, instance in enumerate(launched):
            self.race.see(launch.event(instance, index))
        fields = {"wanted": wanted, "instances": plan.instances}
        self._take(Event("fleet.reduced", fields=fields))

    def _rewrite_order(self, provision: Provision) -> None:
        """Write the order anew, or leave none: a wrong one would lead astray."""
        try:
            self._write_order(provision)
        except UsageError as error:
            self._trouble(error)
            path = self._journal.folder / ORDER
            with contextlib.suppress(OSError, TimeoutError):
                within(DISK_PATIENCE, partial(path.unlink, missing_ok=True))

    def _take_up(
        self,
        listed: list[ec2.Instance],
        launched: Mapping[str, float],
        provision: Provision,
        fleet: Fleet | Mailbox,
    ) -> None:
        """Take note of what is left of the fleet; watch it and the queue."""
        watch = self._new_watch(fleet)
        self._hear_ended(listed, launched, provision)
        watch.catch_up(listed, self._crew.lost, self._crew.ended.keys(), launched)
        self._drain()
        self._mark("launched")
        self._hear_out = time.monotonic() + END_PATIENCE
        self._go_on(watch.run)
        self._go_on(self._listen, provision.queue)
        if self._plan.hold:
            self._go_on(self._tell_failures)

    def _hear_ended(
        self,
        listed: list[ec2.Instance],
        launched: Mapping[str, float],
        provision: Provision,
    ) -> None:
        """Take in what instances that ended while nobody followed have left in S3.

        Before their loss is told: their classes may have come to their end.
        """
        s3, bucket, crew = self._cloud.s3, provision.bucket, self._crew
        ended = takeover.ended(
            {instance.id: instance.state for instance in listed},
            launched,
            time.time(),
            listed_within=self._cloud.listed_within,
        )
        places = [
            orphans.Place(host, i, {p.name: p.index for p in self._parts(host)})
            for host, i in crew.index.items()
            if host in ended and host not in crew.lost
        ]
        try:
            read = partial(orphans.left, s3, bucket, self._run, places)
            for place, left in zip(
                places, within(self._limits.save, read), strict=True
            ):
                self._take_left(place, left, ended[place.host])
            if places:
                self._take_claim(provision)
        except (CloudError, TimeoutError) as error:
            self._take(trouble(_told(error)))
        if crew.index.keys() <= crew.lost | ended.keys():
            self._over_at = self._last_sign

    def _take_left(
        self, place: orphans.Place, left: orphans.Left | CloudError | None, state: str
    ) -> None:
        if isinstance(left, CloudError):
            self._take(trouble(left))
        elif left:
            self._take(*map(self._judged, filter(self._is_news, left.words)))
            at = round(time.time() - left.age, 3)
            fields = {"state": state, "at": at}
            self._take(Event("instance.lost", place.index, place.host, fields))
            sign = time.monotonic() - left.age
            self._last_sign = max(sign, self._last_sign or sign)

    def _is_news(self, event: Event) -> bool:
        """Whether a word of a report may not have been heard before it was left."""
        begun = self.race.standings[event.index or 0].started
        return not (begun and event.kind == "worker.started")

    def _take_claim(self, provision: Provision) -> None:
        """Take in what an orphan claims in S3 to have found."""
        s3, instances = self._cloud.s3, self._plan.instances
        if claim := orphans.claim(s3, provision.bucket, self._run, instances):
            claim = self._judged(claim)
            # A false one may be anybody's: it is held against nobody.
            self._inbox.put(self.race.refuted(claim) or claim)

    def _new_watch(self, fleet: Fleet | Mailbox) -> Watch:
        self._watch = Watch(
            self._cloud.ec2,
            self._run,
            fleet,
            index=self._crew.index,
            parts=self._parts,
            adopts=self._adopts,
            put=self._inbox.put,
            over=self._over,
            is_gone=self._cloud.gone,
        )
        return self._watch

    @property
    def _adopts(self) -> bool:
        """Whether instances may appear that this process did not launch itself."""
        return self._attached or self._plan.hold

    @property
    def _patience(self) -> float:
        """Seconds after which such instances are not expected any more."""
        return HOLD_PATIENCE if self._plan.hold else self._cloud.listed_within

    def _parts(self, instance_id: str) -> list[Part]:
        """Return what an instance has to search: its class, or what it took over."""
        return [
            Part(i, s.start, heard=s.heard, resumed=self._attached)
            for i, s in self.race.standings.items()
            if s.host == instance_id and not s.ended
        ]

    def _listen(self, queue: str) -> None:
        def message(text: str) -> None:
            if "decided" in self._marks or self._over.is_set():
                return  # our own reason, told to the other readers
            fields = {"by": "queue", "text": text[:200]}
            self._inbox.put(Event("run.stop_requested", fields=fields))
            self._limit_the_end()

        sqs.listen(
            self._cloud.sqs,
            queue,
            closing=self._over,
            message=message,
            trouble=self._trouble,
        )

    def _tell_failures(self) -> None:
        """Tell why the group launches too few: a fleet that never comes is no hang."""
        crew = self._crew
        self._launcher.tell_failures(
            self._inbox.put,
            lambda: self._plan.instances - len(crew.index) + len(crew.lost),
            lambda seconds: not self._over.wait(seconds),
        )

    def _tag(self, launched: list[ec2.Instance]) -> None:
        """Tag each instance with its index, once that keeps nobody from searching."""
        deadline = time.monotonic() + TAG_LATEST
        while not self.race.begun and time.monotonic() < deadline:
            if self._over.wait(TICK):
                return
        try:
            for instance in launched:
                if not self._over.is_set():
                    ec2.tag_index(self._cloud.ec2, instance)
        except CloudError as error:
            self._trouble(error)

    def _follow(self, provision: Provision, fleet: Fleet | Mailbox) -> None:
        """Take in events until the run is decided."""
        self.race.awaits_check = self._checking is not None
        while not self.race.outcome:
            self._next_events(fleet)
            if self._plan.replace:
                self._replace(provision)
            self._give_up_unlaunched()
            self._hand_over(fleet)
            self._check_clock()

    def _give_up_unlaunched(self) -> None:
        """Let the classes of instances that never appeared go on elsewhere."""
        late = time.monotonic() >= self._marks["launched"] + self._patience
        if not (self._adopts and self._crew.index and late):
            return
        for index, standing in list(self.race.standings.items()):
            if not standing.host and not standing.ended:
                fields = {"reason": f"Instance{index} was never launched"}
                self._take(Event("host.failed", index, fields=fields))

    def _hand_over(self, fleet: Fleet | Mailbox) -> None:
        """Let the classes of lost hosts go on elsewhere; decide if nothing is left."""
        if self._checking or (self.race.failed and self._awaited()):
            return
        for index in self.race.failed:
            host = self._crew.survivor(self.race.standings.values())
            if host is None:
                break
            start = self.race.resumption(index)
            self._take(Event("class.handed_over", index, host, {"start": start}))
            name = f"Instance{self._crew.index[host]}"
            fleet.serve(self._watch.served[host], name, [Part(index, start)])
        if not (self.race.failed and self._crew.hopeful):
            self.race.settle()

    def _replace(self, provision: Provision) -> None:
        """Launch an instance for each that was lost, at most N in all."""
        if self._late_launches:
            return
        if not self._replacing:
            self._bought = len(self._replacements)
            self._next_place = 1 + max(self._crew.index.values(), default=-1)
        wanted = min(self._crew.dropouts, self._plan.instances)
        while self._bought + len(self._replacing) < wanted:
            index = max(self._plan.instances, self._next_place) + len(self._replacing)
            self._replacing.append(
                self._pool.submit(self._replacement, provision, index)
            )

    @property
    def _late_launches(self) -> float:
        """Seconds for which what a former orchestrator asked for may yet be listed."""
        if len(self._crew.index) >= self._expected:
            return 0.0
        return max(0.0, self._listed_by - time.monotonic())

    @property
    def _replacements(self) -> list[str]:
        """The instances that are known and were launched for others."""
        index = self._crew.index
        return [host for host in index if index[host] >= self._plan.instances]

    def _replacement(self, provision: Provision, index: int) -> bool:
        """Launch one instance; return whether it is there."""
        try:
            new = self._launcher.launch(
                provision,
                1,
                least=1,
                tell=self._tell_durably,
                wait=lambda seconds: not self._over.wait(seconds),
                first=index,
            )
        except CloudError as error:
            self._trouble(error)  # the survivors take over
            return False
        return bool(new)

    def _tell_durably(self, event: Event) -> None:
        """Tell an event from a background thread; on return a durable one is on disk.

        Raises:
            CloudError: the run is over or the disk is full, and what it was to precede
                must not be done.
        """
        if event.kind in DURABLE:
            try:
                self._record.keep_now(event)
            except CndError as error:
                raise CloudError(f"no replacement: {error}") from error
            self._on_disk[id(event)] = event
        self._inbox.put(event)
        if event.kind in DURABLE and self._over.is_set():
            raise CloudError("no replacement: the run is over")

    def _awaited(self) -> bool:
        """Whether a replacement may soon be ready to take a class over."""
        crew, plan = self._crew, self._plan
        if plan.replace and self._late_launches:
            return True
        if any(not launch.done() for launch in self._replacing):
            return True
        known = self._replacements
        launched = self._bought + sum(launch.result() for launch in self._replacing)
        if plan.hold and time.monotonic() < crew.last_loss + HOLD_PATIENCE:
            launched = len(crew.lost)
        return launched > len(known) or not all(map(crew.settled, known))

    def _check_clock(self) -> None:
        now, plan = time.monotonic(), self._plan
        if (began := self._marks.get("searching")) is not None:
            over = began + plan.time_limit + TIME_LIMIT_GRACE
            if now < max(over, self._hear_out):
                return
            if self.race.failed:
                self.race.give_up()
            self.race.decide(Ending.TIMEOUT, f"{plan.time_limit:g} s are over")
        elif not self._crew.index and now >= self._marks["launched"] + self._patience:
            self.race.decide(Ending.INCOMPLETE, self._launcher.nothing_launched)
        elif now >= (
            max(self._marks["launched"], self._crew.last_arrival)
            + plan.boot_allowance
            + END_PATIENCE
        ):
            reason = f"no instance answered within {plan.boot_allowance:.0f} s"
            self.race.decide(Ending.INCOMPLETE, reason)

    def _next_events(self, fleet: Fleet | Mailbox) -> None:
        """Take in events until one may change the run's course, or a tick is over."""
        self._note_first_nonces()
        self._take(*self._inbox.batch(TICK))
        self._view.tick(self.race)
        if time.monotonic() >= self._next_search_for_bugs:
            self._raise_bugs(fleet)

    def _raise_bugs(self, fleet: Fleet | Mailbox) -> None:
        """Raise what a thread died of; not for every event: there are hundreds."""
        self._next_search_for_bugs = time.monotonic() + BUG_LOOK
        raise_bugs([*self._background, *self._replacing, *fleet.threads])
        if self._record.error:
            raise self._record.error

    def _take(self, *events: Event) -> None:
        """Keep, judge and show events; the only place where that is done.

        What is done for each must not grow with the fleet.
        """
        self._unseen.extend(events)
        self._keep(*events)
        while self._unseen:
            self._see(self._unseen.popleft())

    def _see(self, event: Event) -> None:
        if event.kind == "worker.started":
            self._mark("searching")
        if self._clock and self._clock.hear(event, self.race):
            self._set_search_began()
        if event.kind in LAST_WORDS:
            self._marks["stopped"] = max(event.heard, self._marks.get("stopped", 0.0))
        if event.kind in RECEIPT:
            self._receipt.append(event)
        if event.kind == "instance.requested":  # what comes of it lives so long
            self._guard.expect(self._plan.lifetime + self._limits.end)
        self._crew.note(event)
        if event.kind == "instance.lost" and event.host not in self._crew.running:
            self._give_up_unserved(event)
        if event.kind == "run.stop_requested":
            self.race.stop(event)
        objection = self.race.see(event)
        self._view.show(event)
        if objection:
            self._take(objection)

    def _give_up_unserved(self, lost: Event) -> None:
        """Give up what an instance had to search that this process has not served."""
        when = "while nobody followed" if self._attached else "before it ran"
        fields = {"reason": f"Instance{lost.index} went away {when}"}
        classes = [part.index for part in self._parts(lost.host or "")]
        for index in classes:
            self._take(Event("host.failed", index, lost.host, fields))
        if not classes and "at" not in lost.fields:  # it stood by
            self._take(Event("host.failed", lost.index, lost.host, fields))
        self._take(Event("host.done", lost.index, lost.host))

    def _keep(self, *events: Event) -> None:
        """Have events written to the journal.

        A disk that is full or hangs ends the run before the purchase; later it costs
        the record, and must not keep anybody from terminating the fleet.
        """
        new = [e for e in events if self._on_disk.pop(id(e), None) is not e]
        if any(event.kind in DURABLE for event in new):
            self._record.keep_now(*new)
        else:
            self._record.keep(*new)

    # --- the end

    def _wind_down(self, provision: Provision, fleet: Fleet | Mailbox) -> None:
        """Stop every worker, and stay until every log is here or late."""
        self._mark("decided")
        self._limit_the_end()
        fleet.stop()
        self._late.submit(self._tell_reason, provision.queue)
        heard = self._marks["decided"] + fleet.delay  # by all who can hear
        while (now := time.monotonic()) < heard + self._limits.end:
            patience = max(heard, self._crew.last_arrival) + END_PATIENCE
            booting = self._crew.booting
            if not self._crew.serving and (now >= patience or not booting):
                break
            self._next_events(fleet)
        self._raise_bugs(fleet)
        self._mark("logged")

    def _limit_the_end(self) -> None:
        """Have the guard end the fleet if this run has not by the time it should."""
        if not self._plan.keep:
            self._guard.hasten(self._delay + self._limits.end + self._limits.guard)

    def _read_what_is_left(self, provision: Provision) -> None:
        """Read what instances that ended without us have left in S3."""
        s3, bucket = self._cloud.s3, provision.bucket
        for host, index in list(self._crew.index.items()):
            path = self._journal.log(f"Instance{index}")
            if host not in self._crew.lost or path.exists():
                continue
            name = s3logs.LOGS + path.name
            most = pull.most_of(self._plan.instances)
            if found := s3logs.fetch_log(s3, bucket, self._run, name, most=most):
                private.write(path, found[0])
                fields = {"path": str(path), **found[1].fields}
                self._inbox.put(Event("log.pulled", index, host, fields))
        if not self.race.best:
            self._take_claim(provision)

    def _tell_reason(self, queue: str) -> None:
        """Put the reason on the queue: for other readers, and to wake our own."""
        outcome = self.race.outcome
        try:
            sqs.send(self._cloud.sqs, queue, outcome.reason if outcome else "aborted")
        except CloudError as error:
            self._trouble(error)

    def _end(
        self, provision: Provision, fleet: Fleet | Mailbox, *, keep: bool
    ) -> LeakError | None:
        """Terminate the fleet, or keep it; then tidy up, as far as that goes."""
        self._mark("scramming")
        if not keep:
            self._guard.hasten(self._limits.guard)
        if "decided" not in self._marks:  # the run broke off; wake our own reader
            self._late.submit(self._tell_reason, provision.queue)
        closing = self._late.submit(fleet.close)
        wait([closing], timeout=CLOSE_LIMIT)
        self._attempt(self._drain)
        saving = self._late.submit(self._save, provision)
        leak = None
        if keep:
            self._leave_up()
        else:
            leak = self._terminated()
        self._mark("scrammed")
        self._attempt(self._tidy, provision, saving)
        self._attempt(self._drain)
        return leak

    def _leave_up(self) -> None:
        """Leave the fleet to its lifetime timer, as the user wishes."""
        self._kept = tuple(sorted(self._crew.index))
        self._settled = True
        self._guard.dismiss()

    def _terminated(self) -> LeakError | None:
        """Terminate the fleet, whatever is raised; return what may be left of it."""
        self._over.set()
        launching = [launch for launch in self._replacing if not launch.done()]
        self._attempt(self._drain)
        leak = self._insisted()
        if launching:  # what was known did not wait for what comes of these
            late = wait(launching, timeout=self._limits.end).not_done
            self._launcher.unsure |= bool(late)
            self._attempt(self._drain)
            leak = self._insisted()
        self._settled = True
        self._guard.dismiss()
        self._leaked = leak.ids if leak else ()
        return leak

    def _insisted(self) -> LeakError | None:
        """Terminate the fleet in a thread that may hang; take in what it tells."""
        self._guard.postpone(SECOND_TRY)
        began = time.monotonic()
        died = RuntimeError("the thread that terminates died, or hung for too long")
        error: BaseException | None = None
        while time.monotonic() < began + GIVE_UP:
            scramming, thread = self._scramming()
            while thread.is_alive() and self._guard.result(began) is None:
                self._attempt(self._take_in_the_end)
                if time.monotonic() >= began + GIVE_UP:
                    break
            for instance in self._guard.result(began) or ():
                self._tell_terminated(instance)
            self._attempt(self._drain)
            error = scramming.exception() if scramming.done() else died
            if error is None or self._guard.result(began) is not None:
                return None
            if isinstance(error, LeakError):
                return self._leak(error.ids, error)
            self._broke.append(error)
            time.sleep(TICK)  # and once more
        left = self._crew.index.keys() - self._crew.ended.keys()
        return self._leak(left, error or died)

    def _scramming(self) -> tuple[Future[None], threading.Thread]:
        """Begin to terminate the fleet; where no thread is to be had, do it here."""
        scramming: Future[None] = Future()

        def work() -> None:
            try:
                insist(self._scram, note=self._broke.append)
            except BaseException as error:  # it is a leak, or tried again
                scramming.set_exception(error)
            else:
                scramming.set_result(None)
            finally:
                self._inbox.wake()

        thread = threading.Thread(target=work, name="scram", daemon=True)
        try:
            begin(thread)
        except (RuntimeError, MemoryError):
            work()
        return scramming, thread

    def _take_in_the_end(self) -> None:
        self._take(*self._inbox.batch(TICK))
        self._view.tick(self.race)

    def _tell_terminated(self, instance: ec2.Instance) -> None:
        index = self._crew.index.get(instance.id)
        self._inbox.put(Event("instance.terminated", index, instance.id))

    def _leak(self, ids: Iterable[str], cause: BaseException) -> LeakError:
        """Return what tells the user which machines to see to, and how."""
        cloud = self._cloud
        message = f"not seen terminated in {cloud.region}, perhaps still running"
        words = scram_words(self._run, cloud.name, cloud.region)
        leak = LeakError(ids, message, hint=f"run `{words}`")
        leak.__cause__ = cause
        return leak

    def _tidy(self, provision: Provision, saving: Future[bool]) -> None:
        """Do what need not be done before the fleet's end; none of it for long."""
        delete = partial(sqs.delete, self._cloud.sqs, provision.queue)
        works: list[Future[Any]] = [
            saving,
            self._late.submit(again, self._launcher.tidy, hopeless=self._cloud.gone),
            self._late.submit(again, delete, hopeless=self._cloud.gone),
        ]
        late = wait(works, timeout=self._limits.save).not_done
        for work in works:
            try:
                if work not in late:
                    work.result()
            except CloudError as error:  # it keeps nobody from the rest
                self._trouble(error)
        if saving in late:
            message = (
                f"the logs are not in S3: no answer within {self._limits.save:.0f} s"
            )
            self._trouble(CloudError(message))
        elif not saving.exception():
            self._saved = saving.result()
        if self._saved:
            self._s3 = f"s3://{provision.bucket}/{s3logs.prefix(self._run)}"

    def _tell_abort(self) -> None:
        fields = {"terminated": len(self._crew.ended), "left": len(self._leaked)}
        self._take(Event("run.aborted", fields=fields))
        self._record.settle(LAST_PATIENCE)  # the program may end at once

    def _scram(self) -> None:
        """Terminate the fleet and see it terminated; `LeakError` if it was not."""
        # A launch whose answer was lost may have worked.
        look = (
            self._cloud.listed_within if self._launcher.unsure else self._late_launches
        )
        if look:
            self._view.answer(f"looking for {look:.0f} s what comes of the launch")
        scram(
            self._cloud,
            self._run,
            groups=self._launcher.groups,
            known=self._crew.index.keys() - self._crew.ended.keys(),
            look=look,
            seen=self._tell_terminated,
        )

    def _strike(self) -> list[ec2.Instance]:
        """Terminate the fleet in the guard's thread, with nothing of this run's.

        And with no other thread: perhaps none is to be had.
        """
        return scram(
            self._cloud,
            self._run,
            groups=self._launcher.groups,
            known=list(self._crew.index),
            look=self._cloud.listed_within,
            at_once=1,
        )

    def _save(self, provision: Provision) -> bool:
        """Have what there is of logs here and in S3; return whether all are there."""
        if "decided" in self._marks and (self._crew.lost or self.race.failed):
            try:
                self._read_what_is_left(provision)
            except (CloudError, OSError) as error:
                self._trouble(error)
        return self._upload(provision)

    def _upload(self, provision: Provision) -> bool:
        """Upload the logs; return whether there are some, and all of them are there."""
        logs: dict[str, Path] = {}
        failures: Mapping[str, CndError]
        try:
            for path in sorted(self._journal.logs.glob("[!.]*")):
                logs[s3logs.LOGS + path.name] = path
            failures = self._put(provision, logs)
        except OSError as error:
            failures = {str(self._journal.logs): _told(error)}
        for failure in list(failures.values())[:1]:
            self._trouble(failure)
        if count := len(logs.keys() - failures.keys()):
            fields = {"bucket": provision.bucket, "count": count}
            self._inbox.put(Event("logs.uploaded", fields=fields))
        return bool(logs) and not failures

    def _put(
        self, provision: Provision, files: Mapping[str, Path]
    ) -> Mapping[str, CndError]:
        """Upload files; return the failures: all, where the bucket is not for use."""
        s3, bucket, owner = self._cloud.s3, provision.bucket, provision.owner
        try:
            provision.bucket_made.result(timeout=self._limits.save)
            if self._attached:  # what became of it then is not known
                s3logs.check_finished(s3, bucket, owner)
        except (CloudError, NotDone) as error:
            return dict.fromkeys(files, _told(error))
        left, failures = files, dict[str, CloudError]()

        def put() -> None:
            nonlocal left, failures
            failures = s3logs.upload(s3, bucket, self._run, left, owner=owner)
            left = {name: files[name] for name in failures}
            for failure in failures.values():
                raise failure

        with contextlib.suppress(CloudError):  # it is among those that are returned
            again(put, hopeless=self._cloud.gone)
        return failures

    def _drain(self) -> None:
        """Take in what the threads put last, and what a second Ctrl-C has cut off."""
        deadline = time.monotonic() + DRAIN_LIMIT
        self._take()
        while (batch := self._inbox.batch()) and time.monotonic() < deadline:
            self._take(*batch)

    def _finish(self, provision: Provision) -> Result:
        """Write the result, and upload it with the events."""
        result = self._result()
        ending = result.outcome.ending
        fields = {"outcome": ending.outcome, "reason": result.outcome.reason}
        self._take(Event("run.ended", fields=fields))
        answered = self._record.settle(LAST_PATIENCE)
        try:
            write = partial(self._journal.write_result, result.to_json())
            within(DISK_PATIENCE, write)
        except (CndError, TimeoutError) as error:
            self._view.show(trouble(_told(error)))
        else:
            self._copy(provision, [EVENTS, RESULT] if answered else [RESULT])
        self._pool.close(cancel=True)
        self._late.close(cancel=True)
        return result

    def _copy(self, provision: Provision, names: Iterable[str]) -> None:
        """Upload files of the run's folder, unless the bucket did not answer before."""
        if self._saved is not None:
            files = {name: self._journal.folder / name for name in names}
            copying = self._late.submit(self._put, provision, files)
            wait([copying], timeout=self._limits.save)

    def _result(self) -> Result:
        race, plan = self.race, self._plan
        outcome = race.outcome or race.best or Outcome(Ending.INCOMPLETE, "aborted")
        return Result(
            run=self._run,
            cloud=self._cloud.name,
            region=self._cloud.region,
            outcome=outcome,
            block=plan.block,
            difficulty=None if plan.script else plan.difficulty,
            instances=plan.instances,
            asked=plan.asked or plan.instances,
            fleet=[
                {"id": e.host, "index": e.index, **e.fields}
                for e in self._receipt
                if e.kind == LAUNCHED
            ],
            tested=race.tested if race.counted else None,
            repeated=race.repeated,
            coverage=race.coverage,
            hash_rate=race.hash_rate or None,
            kernel=", ".join(race.kernels) or None,
            seconds=self._seconds(),
            usd=spent(plan, [*self._receipt, Event("run.ended")]),
            logs_local=str(self._journal.logs),
            logs_s3=self._s3,
            terminated=self._crew.ended,
            kept=self._kept,
            leaked=self._leaked,
            smallest=race.smallest,
            evidence=race.evidence,
            unproved=race.unproved,
        )

    def _seconds(self) -> Seconds:
        """Return how long each phase took; of a fleet that had ended, until then."""
        if self._over_at is None:
            return Seconds.of(self._marks, self._began, time.monotonic())
        decided = self._marks.get("stopped", self._over_at)
        marks = {**self._marks, "decided": decided}
        return Seconds.of(marks, self._began, self._over_at)

    def _set_search_began(self) -> None:
        """Take over what the workers say of when the search began, in an old run."""
        if self._clock is None or (began := self._clock.began) is None:
            return
        self._marks["searching"] = began
        if self._boot is not None:
            self._began = began - self._boot
        self._began = min(self._began, began)

    # --- small things

    def _go_on(self, work: Callable[..., None], *arguments: object) -> None:
        """Do `work` meanwhile; what it dies of is raised by `_next_events`."""
        self._background.append(self._pool.submit(work, *arguments))

    def _mark(self, name: str) -> None:
        self._marks.setdefault(name, time.monotonic())

    def _trouble(self, error: Exception) -> None:
        self._inbox.put(trouble(_told(error)))

    def _signals(self) -> contextlib.AbstractContextManager[None]:
        """Let Ctrl-C and its like ask for the end, and be answered at once."""

        def ask(text: str) -> None:
            fields = {"by": "signal", "text": text}
            self._inbox.put(Event("run.stop_requested", fields=fields))
            self._limit_the_end()
            self._view.answer(f"stopping: {text}; again: terminate at once")

        return signals.heeded(ask, self._over.is_set)


def _told(error: Exception) -> CndError:
    """Return a failure of a file or a deadline as one that is told."""
    return error if isinstance(error, CndError) else CloudError(str(error))


def scram_words(run: str, cloud: str, region: str) -> str:
    """Return the command that ends what is left of a run."""
    return f"fab scram --run {run} --cloud {cloud} --region {region}"


def raise_bugs(futures: Iterable[Future[Any]]) -> None:
    """Raise what a thread died of: a bug, since failures arrive as events."""
    for future in futures:
        if future.done() and not future.cancelled():
            future.result()


def _described(plan: Plan) -> dict[str, object]:
    return {
        "block": plan.block,
        "difficulty": plan.difficulty,
        "instances": plan.instances,
        "nonces": plan.nonces,
        "time_limit": plan.time_limit,
        "type": plan.instance_type,
        "lifetime": plan.lifetime,
        "script": plan.script,
    }
