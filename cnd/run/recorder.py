"""The state of a run, and the only way to change it: every event is taken in once.

One rule: an event is kept in the journal, seen by the search state and the roster, and
shown, in this order and in the deciding thread only.  What is done for each event must
not grow with the fleet.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from cnd.errors import CloudError, CndError
from cnd.model import checkpoint, replay
from cnd.model.billing import ENDS, LAUNCHED, RUNNING
from cnd.model.checkpoint import Checkpoint
from cnd.model.events import LAST_WORDS, PROGRESS, Event, trouble
from cnd.model.plan import Plan
from cnd.model.result import Seconds
from cnd.model.search_state import SearchState
from cnd.run.event_files import DURABLE
from cnd.run.event_queue import EventQueue
from cnd.run.journal import Journal
from cnd.run.journal_writer import MINOR, JournalWriter
from cnd.run.roster import Roster
from cnd.run.viewer import Viewer
from cnd.transport.fleet import Part

TICK = 0.1  # seconds between two looks at the clock
LAST_PATIENCE = 3.0  # seconds for the last events to be on disk
# Reports of progress between two checkpoints: so many, and so many for each class.
MOST_PROGRESS, PROGRESS_OF_ONE = 2000, 8
DRAIN_LIMIT = 2.0  # seconds to take in the last events of all threads
# The kinds of events that the receipt is made from.
RECEIPT = frozenset({LAUNCHED, RUNNING, *ENDS, "run.ended"})


class Recorder:
    """The state of a run, as the result of its events."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        *,
        view: Viewer,
        began: float | None = None,
    ) -> None:
        """Begin with no event.

        Args:
            view: shows each event; it is called from the deciding thread only.
            began: when the run began, on the monotonic clock; None: now.
        """
        self.plan = plan
        self.search = SearchState(plan)
        self.roster = Roster()
        self.receipt: list[Event] = []  # the events of `RECEIPT`
        self.marks: dict[str, float] = {}  # moments of the run, on the monotonic clock
        self.began = time.monotonic() if began is None else began
        # When a fleet that ended without an orchestrator left its latest report; None:
        # it has an orchestrator, or some of it lives.
        self.ended_at: float | None = None
        self.attached = False  # a former orchestrator began this run
        self.over = threading.Event()  # set: the background threads end
        self.observers: list[Callable[[Event], None]] = []  # called with each event
        self.queue = EventQueue()
        series = checkpoint.Series(plan.instances)
        self.writer = JournalWriter(journal, self.queue.put, series)
        # Progress since the last checkpoint, and after how much of it the next is due.
        self._progress, self._most_progress = 0, MOST_PROGRESS
        self.view = view
        self._clock: replay.SearchClock | None = None  # of a run that is taken over
        self._boot: float | None = None  # seconds until its search began
        self._unseen: deque[Event] = deque()  # of the batch that is being taken in
        self._on_disk: dict[int, Event] = {}  # see `put_durably`

    def recall(self, history: Sequence[Event | Checkpoint]) -> replay.RunHistory:
        """Take over the state of a former orchestrator, as its journal has it."""
        events = (entry for entry in history if isinstance(entry, Event))
        self.receipt = [event for event in events if event.kind in RECEIPT]
        past = replay.replayed(self.plan, history)
        self.search, self.attached = past.search, True
        self.roster = Roster(
            past.index, lost=past.lost, unfit=past.unfit, ended=past.ended
        )
        now = time.monotonic()
        self._clock = replay.SearchClock(past.searched, now)
        self._boot, self.began = past.boot, now - past.lasted
        self._set_search_began()
        self._checkpoint()
        return past

    def divide(self, plan: Plan) -> None:
        """Begin again with another number of classes; no worker has begun yet."""
        self.plan, self.search = plan, SearchState(plan)

    # --- from any thread

    def put(self, event: Event) -> None:
        """Add an event, which is taken in soon."""
        self.queue.put(event)

    def put_patiently(self, event: Event) -> None:
        """Add an event of a host; while many wait, a minor one waits here."""
        while event.kind in MINOR and self.queue.full:
            if self.over.wait(TICK):
                return
        self.queue.put(event)

    def put_durably(self, event: Event) -> None:
        """Add an event of a background thread; on return a durable one is on disk.

        Raises:
            CloudError: the run is over or the disk is full, and what it was to precede
                must not be done.
        """
        if event.kind in DURABLE:
            try:
                self.writer.keep_now(event)
            except CndError as error:
                raise CloudError(f"no replacement: {error}") from error
            self._on_disk[id(event)] = event
        self.queue.put(event)
        if event.kind in DURABLE and self.over.is_set():
            raise CloudError("no replacement: the run is over")

    def trouble(self, error: Exception) -> None:
        """Add a failure that does not end the run."""
        self.queue.put(trouble(failure(error)))

    def search_began(self) -> float | None:
        """Return when an old run's search began, on the monotonic clock, if known."""
        return self._clock.began if self._clock else None

    def parts(self, instance_id: str) -> list[Part]:
        """Return what an instance has to search: its class, or what it took over."""
        return [
            Part(i, s.start, received=s.lines, resumed=self.attached)
            for i, s in self.search.classes.items()
            if s.host == instance_id and not s.ended
        ]

    # --- in the deciding thread

    def take(self, *events: Event) -> None:
        """Keep, judge and show events; the only place that does."""
        self._unseen.extend(events)
        self._keep(*events)
        while self._unseen:
            self._see(self._unseen.popleft())

    def take_next(self) -> None:
        """Take in events until one may need a decision, or a tick is over."""
        self.take(*self.queue.batch(TICK))
        self.view.tick(self.search)
        if self._progress >= self._most_progress or self.writer.is_full:
            self._checkpoint()

    def linger(self, seconds: float) -> bool:
        """Take in events for so long; return whether the run is to go on."""
        deadline = time.monotonic() + seconds
        while not self.search.outcome:
            left = max(0.0, deadline - time.monotonic())
            if batch := self.queue.batch(min(TICK, left)):
                self.take(*batch)
                continue
            self.view.tick(self.search)
            if time.monotonic() >= deadline:
                return True
        return False

    def drain(self) -> None:
        """Take in the last events of all threads, also after a second Ctrl-C."""
        deadline = time.monotonic() + DRAIN_LIMIT
        self.take()
        while (batch := self.queue.batch()) and time.monotonic() < deadline:
            self.take(*batch)

    @property
    def seconds(self) -> Seconds:
        """How long each phase took; of a fleet that had ended, until then."""
        if self.ended_at is None:
            return Seconds.of(self.marks, self.began, time.monotonic())
        decided = self.marks.get("stopped", self.ended_at)
        return Seconds.of({**self.marks, "decided": decided}, self.began, self.ended_at)

    def mark(self, name: str) -> None:
        """Note the time of a named moment of the run; the first call counts."""
        self.marks.setdefault(name, time.monotonic())

    def _see(self, event: Event) -> None:
        if event.kind == "worker.started":
            self.mark("searching")
        if self._clock and self._clock.update(event, self.search):
            self._set_search_began()
        self._progress += event.kind == PROGRESS
        if event.kind in LAST_WORDS:
            self.marks["stopped"] = max(event.received, self.marks.get("stopped", 0.0))
        if event.kind in RECEIPT:
            self.receipt.append(event)
        for observe in self.observers:
            observe(event)
        self.roster.note(event)
        if event.kind == "instance.lost" and event.host not in self.roster.running:
            self._give_up_unserved(event)
        if event.kind == "run.stop_requested":
            self.search.stop(event)
        objection = self.search.see(event)
        self.view.show(event)
        if objection:
            self.take(objection)

    def _give_up_unserved(self, lost: Event) -> None:
        """Give up the classes of a lost instance that this process has not served."""
        missed = "while the run had no orchestrator"
        when = missed if self.attached else "before it ran"
        why = f": {lost.fields['reason']}" if lost.fields.get("reason") else ""
        fields = {"reason": f"Instance{lost.index} went away {when}{why}"}
        classes = [part.index for part in self.parts(lost.host or "")]
        for index in classes:
            self.take(Event("host.failed", index, lost.host, fields))
        if not classes and "at" not in lost.fields:  # it stood by
            self.take(Event("host.failed", lost.index, lost.host, fields))
        self.take(Event("host.done", lost.index, lost.host))

    def _keep(self, *events: Event) -> None:
        """Have events written to the journal.

        A disk that is full or hangs ends the run before the purchase; later it costs
        the record, and must not delay the termination of the fleet.
        """
        new = [e for e in events if self._on_disk.pop(id(e), None) is not e]
        if any(event.kind in DURABLE for event in new):
            self.writer.keep_now(*new)
        else:
            self.writer.keep(*new)

    def _checkpoint(self) -> None:
        """Keep how far each class is; of what was kept before, only the latest."""
        self._most_progress = max(
            MOST_PROGRESS, PROGRESS_OF_ONE * len(self.search.classes)
        )
        self._progress = 0
        self.writer.checkpoint(checkpoint.of(self.search))

    def _set_search_began(self) -> None:
        """Set when the search of an old run began, as its workers report it."""
        if self._clock is None or (began := self._clock.began) is None:
            return
        self.marks["searching"] = began
        if self._boot is not None:
            self.began = began - self._boot
        self.began = min(self.began, began)


def failure(error: Exception) -> CndError:
    """Return a failure of a file or a deadline as one with a message for the user."""
    return error if isinstance(error, CndError) else CloudError(str(error))
