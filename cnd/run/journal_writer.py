"""Writes a run's journal in a thread of its own: a hanging disk delays no decision.

Of the workers' progress the latest is kept whole, and a thinned series beside the other
events: so the files do not grow with the length of a search.

One rule: an event that must be on disk before an action is waited for, with a limit;
all others are written soon and in order, and each failure is reported once.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from cnd.errors import CndError, UsageError
from cnd.model.checkpoint import Checkpoint, Series
from cnd.model.events import PROGRESS, Emit, Event, trouble
from cnd.run import progress_file
from cnd.run.journal import Journal
from cnd.system.background import NotDone

DISK_PATIENCE = 10.0  # seconds for a disk to answer
MOST = 20_000  # events that wait to be written; beyond that minor ones are left out
AT_ONCE = 1000  # events written in one go
MINOR = frozenset({PROGRESS, "worker.noise"})


class JournalWriter:
    """Writes events to the journal; for any thread."""

    def __init__(
        self, journal: Journal, report: Emit, series: Series | None = None
    ) -> None:
        """Start the thread.

        Args:
            report: takes a failure to write, as an event, once for each reason.
            series: chooses the progress that is kept for pictures; None: that of one
                instance.
        """
        self._journal, self._report = journal, report
        self._series = series or Series(1)
        self._entries: SimpleQueue[Event | Checkpoint | Future[None]] = SimpleQueue()
        self._reported: set[str] = set()
        self.error: BaseException | None = None  # what a bug raised in a write
        threading.Thread(target=self._write, name="journal", daemon=True).start()

    def keep(self, *events: Event) -> None:
        """Have events written, without waiting."""
        for event in events:
            if event.kind not in MINOR or self._entries.qsize() < MOST:
                self._entries.put(event)

    def checkpoint(self, state: Checkpoint) -> None:
        """Have the progress so far replaced by the state that it has led to."""
        self._entries.put(state)

    @property
    def is_full(self) -> bool:
        """Whether so much progress is on disk that a checkpoint is due."""
        return self._journal.progress.size >= progress_file.LARGE

    def keep_now(self, *events: Event) -> None:
        """Have events written, and wait until they are.

        Raises:
            UsageError: they could not be, or the disk does not answer.
        """
        self.keep(*events)
        written = self._mark()
        try:
            written.result(timeout=DISK_PATIENCE)
        except NotDone as error:
            message = f"cannot write to {self._journal.folder}: it does not answer"
            hint = "set XDG_STATE_HOME to another folder"
            raise UsageError(message, hint=hint) from error

    def settle(self, seconds: float) -> bool:
        """Wait for the events so far; return whether the disk has answered."""
        try:
            self._mark().exception(timeout=seconds)
        except NotDone:
            return False
        return True

    def _mark(self) -> Future[None]:
        """Return a future that is done when all events so far are written."""
        mark: Future[None] = Future()
        self._entries.put(mark)
        return mark

    # --- in its own thread

    def _write(self) -> None:
        failed: BaseException | None = None  # why the latest events were not written
        while True:
            events, then = self._next()
            mark = then if isinstance(then, Future) else None
            failed = None if events else failed
            try:
                self._store(events)
                if isinstance(then, Checkpoint):
                    self._journal.keep_checkpoint(then)
            except CndError as error:
                failed = error
                self._report_once(error)
            except BaseException as error:  # it ends the run, but not this thread
                failed = self.error = error
            if mark is None:
                continue
            if failed:
                mark.set_exception(failed)
            else:
                mark.set_result(None)

    def _store(self, events: list[Event]) -> None:
        """Write events in their order: progress in its own file, the rest as it is."""
        kept: list[Event] = []
        recent: list[tuple[int, Event]] = []
        for event in events:
            if event.kind != PROGRESS:
                kept.append(event)
                continue
            recent.append((len(kept), event))
            if shown := self._series.kept(event):
                kept.append(shown)
        self._journal.append(*kept, recent=recent)

    def _next(self) -> tuple[list[Event], Checkpoint | Future[None] | None]:
        """Wait for events; return those that wait, up to a checkpoint or a mark."""
        events: list[Event] = []
        entry = self._entries.get()
        with contextlib.suppress(Empty):
            while isinstance(entry, Event):
                events.append(entry)
                if len(events) == AT_ONCE:
                    return events, None
                entry = self._entries.get_nowait()
            return events, entry
        return events, None

    def _report_once(self, error: CndError) -> None:
        if str(error) not in self._reported:
            self._reported.add(str(error))
            self._report(trouble(error))
