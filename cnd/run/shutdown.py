"""The end of a fleet: stopped, then terminated, and seen terminated.

One rule: whatever is raised or hangs, termination is tried until it was seen or its
time is over; what need not precede it is done after it, within a limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial

from cnd import ec2, sqs
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError, LeakError
from cnd.model.events import Event
from cnd.provision.launch import Launcher
from cnd.provision.retry import again
from cnd.provision.scram import scram
from cnd.provision.termination import Patience
from cnd.run.recorder import LAST_PATIENCE, TICK, Recorder
from cnd.run.replacements import Replacements
from cnd.run.termination_guard import TerminationGuard, insist
from cnd.system.background import Pool, begin
from cnd.transport.fleet import END_PATIENCE, Fleet
from cnd.transport.turns import STOP_FIRST

# Seconds after the beginning of a termination until the guard begins a second one, if
# the fleet was not seen terminated by then, and until it is given up.
SECOND_TRY, GIVE_UP = 60.0, 1500.0
CLOSE_LIMIT = 2.0  # seconds for the connections to close
# Seconds between two looks at the events while the workers stop: what can wait does, as
# the hosts of a local cloud share the processor with this process.
SETTLING = 0.25
POOL = 8  # calls to the cloud besides those of the deciding thread, at a time


@dataclass(frozen=True)
class Limits:
    """How long the end of a run may take, whatever hangs; in seconds."""

    end: float = 60.0  # for stop and logs together, until the fleet is terminated
    # So long after that, or after the run broke off, the guard terminates it if the
    # deciding thread has not: see `TerminationGuard`.
    guard: float = 15.0
    # For the work after the fleet's end, which must not delay the program's end.
    save: float = 60.0


LIMITS = Limits()


class Shutdown:
    """Ends the fleet of one run, and reports what may be left of it."""

    def __init__(
        self,
        recorder: Recorder,
        cloud: Cloud,
        run: str,
        *,
        launcher: Launcher,
        replacements: Replacements,
        limits: Limits,
    ) -> None:
        self._recorder, self._cloud, self._run = recorder, cloud, run
        self._launcher, self._replacements = launcher, replacements
        self._limits = limits
        self._guard = TerminationGuard(self._terminate)
        # Nothing is launched, or the fleet is terminated, kept, or named as a leak.
        self.settled = True
        self.raised: list[BaseException] = []  # to be raised after the fleet's end
        self.kept: tuple[str, ...] = ()
        self.leaked: tuple[str, ...] = ()
        self.pool = Pool(POOL, "end")  # for the work at the end
        self._delay = 0.0  # see `Fleet.delay`
        recorder.observers.append(self._note)

    def arm(self, delay: float) -> None:
        """Let the guard end all that is launched from now on.

        Args:
            delay: seconds that a message may take to reach a host: see `Fleet.delay`.
        """
        self._delay = delay
        self._expect()
        self.settled = False

    def _note(self, event: Event) -> None:
        if event.kind == "instance.requested":  # it may live its whole lifetime
            self._expect()

    def _expect(self) -> None:
        self._guard.expect(self._recorder.plan.lifetime + self._limits.end)

    def hasten(self) -> None:
        """Let the guard end the fleet if this run has not within its limits."""
        if not self._recorder.plan.keep:
            self._guard.hasten(self._delay + self._limits.end + self._limits.guard)

    def attempt(self, work: Callable[..., object], *arguments: object) -> None:
        """Do `work`; what it raises is raised later, after the fleet's end."""
        try:
            work(*arguments)
        except BaseException as error:
            self.raised.append(error)

    # --- stop

    def wind_down(
        self, queue: str, fleet: Fleet, take_next: Callable[[], None]
    ) -> None:
        """Stop every worker, and wait until every log is here or late."""
        recorder = self._recorder
        recorder.mark("decided")
        self.hasten()
        fleet.stop()
        late = recorder.marks["decided"] + STOP_FIRST
        while not fleet.at_rest.wait(SETTLING) and time.monotonic() < late:
            recorder.drain()
        self.pool.submit(self._send_reason, queue)
        received = recorder.marks["decided"] + fleet.delay  # by all reachable hosts
        while (now := time.monotonic()) < received + self._limits.end:
            roster = recorder.roster
            patience = max(received, roster.last_arrival) + END_PATIENCE
            if not roster.serving and (now >= patience or not roster.booting):
                break
            take_next()

    def _send_reason(self, queue: str) -> None:
        """Put the reason on the queue: for other readers, and to wake this run's."""
        outcome = self._recorder.search.outcome
        try:
            sqs.send(self._cloud.sqs, queue, outcome.reason if outcome else "aborted")
        except CloudError as error:
            self._recorder.trouble(error)

    # --- terminate

    def end(
        self, queue: str, fleet: Fleet, *, keep: bool, save: Callable[[], object]
    ) -> LeakError | None:
        """Terminate the fleet, or keep it; then clean up, as far as possible.

        Args:
            save: saves the logs; it is begun before and finished after termination.
        """
        recorder = self._recorder
        recorder.mark("scramming")
        if not keep:
            self._guard.hasten(self._limits.guard)
        if "decided" not in recorder.marks:  # the run broke off: wake its own reader
            self.pool.submit(self._send_reason, queue)
        closing = self.pool.submit(fleet.close)
        wait([closing], timeout=CLOSE_LIMIT)
        self.attempt(recorder.drain)
        saving = self.pool.submit(save)
        leak = None
        if keep:
            self._leave_up()
        else:
            leak = self.terminated()
        recorder.mark("scrammed")
        self.attempt(self._tidy, queue, saving)
        self.attempt(recorder.drain)
        return leak

    def _leave_up(self) -> None:
        """Leave the fleet to its lifetime timer, as the user asked."""
        self.kept = tuple(sorted(self._recorder.roster.index))
        self.settled = True
        self._guard.dismiss()

    def terminated(self) -> LeakError | None:
        """Terminate the fleet, whatever is raised; return what may be left of it."""
        self._recorder.over.set()
        launching = [each for each in self._replacements.launches if not each.done()]
        self.attempt(self._recorder.drain)
        leak = self._insisted()
        if launching:  # the known instances did not wait for these
            late = wait(launching, timeout=self._limits.end).not_done
            self._launcher.unsure |= bool(late)
            self.attempt(self._recorder.drain)
            leak = self._insisted()
        self.settled = True
        self._guard.dismiss()
        self.leaked = leak.ids if leak else ()
        return leak

    def _insisted(self) -> LeakError | None:
        """Terminate the fleet in a thread that may hang; take in its events."""
        self._guard.postpone(SECOND_TRY)
        began = time.monotonic()
        died = RuntimeError("the thread that terminates died, or hung for too long")
        error: BaseException | None = None
        while time.monotonic() < began + GIVE_UP:
            scramming, thread = self._scramming()
            while thread.is_alive() and self._guard.result(began) is None:
                self.attempt(self._recorder.take_next)
                if time.monotonic() >= began + GIVE_UP:
                    break
            for instance in self._guard.result(began) or ():
                self._put_terminated(instance)
            self.attempt(self._recorder.drain)
            error = scramming.exception() if scramming.done() else died
            if error is None or self._guard.result(began) is not None:
                return None
            if isinstance(error, LeakError):
                return self._leak(error.ids, error)
            self.raised.append(error)
            time.sleep(TICK)  # and once more
        roster = self._recorder.roster
        return self._leak(roster.index.keys() - roster.ended.keys(), error or died)

    def _scramming(self) -> tuple[Future[None], threading.Thread]:
        """Begin to terminate the fleet; where no thread can be had, do it here."""
        scramming: Future[None] = Future()

        def work() -> None:
            try:
                insist(self._scram, note=self.raised.append)
            except BaseException as error:  # it is a leak, or tried again
                scramming.set_exception(error)
            else:
                scramming.set_result(None)
            finally:
                self._recorder.queue.wake()

        thread = threading.Thread(target=work, name="scram", daemon=True)
        try:
            begin(thread)
        except (RuntimeError, MemoryError):
            work()
        return scramming, thread

    def _scram(self) -> None:
        """Terminate the fleet and see it terminated; `LeakError` if it was not."""
        # A launch whose answer was lost may have worked.
        late = self._replacements.late_launches
        look = self._cloud.listed_within if self._launcher.unsure else late
        if look:
            text = f"looking {look:.0f} s for instances that a launch may still bring"
            self._recorder.view.answer(text)
        roster = self._recorder.roster
        scram(
            self._cloud,
            self._run,
            groups=self._launcher.groups,
            known=roster.index.keys() - roster.ended.keys(),
            patience=Patience(look=look, without_shutdown=frozenset(roster.logged)),
            seen=self._put_terminated,
        )

    def _terminate(self) -> list[ec2.Instance]:
        """Terminate the fleet in the guard's thread, with no other part of this run.

        And with no other thread: perhaps none can be had.
        """
        return scram(
            self._cloud,
            self._run,
            groups=self._launcher.groups,
            known=list(self._recorder.roster.index),
            patience=Patience(look=self._cloud.listed_within, at_once=1),
        )

    def _put_terminated(self, instance: ec2.Instance) -> None:
        index = self._recorder.roster.index.get(instance.id)
        self._recorder.put(Event("instance.terminated", index, instance.id))

    def _leak(self, ids: Iterable[str], cause: BaseException) -> LeakError:
        """Return the error with the instances left, and the command to end them."""
        cloud = self._cloud
        message = f"not seen terminated in {cloud.region}, perhaps still running"
        words = scram_words(self._run, cloud.name, cloud.region)
        leak = LeakError(ids, message, hint=f"run `{words}`")
        leak.__cause__ = cause
        return leak

    # --- after the fleet's end

    def _tidy(self, queue: str, saving: Future[object]) -> None:
        """Do what need not precede the fleet's end, within a limit."""
        delete = partial(sqs.delete, self._cloud.sqs, queue)
        works: list[Future[object]] = [
            saving,
            self.pool.submit(again, self._launcher.clean_up, hopeless=self._cloud.gone),
            self.pool.submit(again, delete, hopeless=self._cloud.gone),
        ]
        late = wait(works, timeout=self._limits.save).not_done
        for work in works:
            try:
                if work not in late:
                    work.result()
            except CloudError as error:  # the others are done all the same
                self._recorder.trouble(error)
        if saving in late:
            limit = f"no answer within {self._limits.save:.0f} s"
            self._recorder.trouble(CloudError(f"the logs are not in S3: {limit}"))

    def record_abort(self) -> None:
        """Record that the run broke off, and what is left of its fleet."""
        ended = self._recorder.roster.ended
        fields = {"terminated": len(ended), "left": len(self.leaked)}
        self._recorder.take(Event("run.aborted", fields=fields))
        self._recorder.writer.settle(LAST_PATIENCE)  # the program may end at once


def scram_words(run: str, cloud: str, region: str) -> str:
    """Return the command that ends what is left of a run."""
    return f"fab scram --run {run} --cloud {cloud} --region {region}"
