"""A run's journal, written by a thread of its own: a disk that hangs holds up nothing.

One rule: what must be on disk before the deed is waited for, so long and no longer;
all else is written soon, in its order, and what could not be written is told once.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from cnd.errors import CndError, UsageError
from cnd.model.events import PROGRESS, Emit, Event, trouble
from cnd.run.journal import Journal
from cnd.system.background import NotDone

DISK_PATIENCE = 10.0  # seconds for a disk to answer
MOST = 20_000  # events that wait to be written; beyond that the minor ones are left out
AT_ONCE = 1000  # events written in one go
MINOR = frozenset({PROGRESS, "worker.noise"})


class JournalWriter:
    """Writes events to the journal; for any thread."""

    def __init__(self, journal: Journal, tell: Emit) -> None:
        """Make a record.

        Args:
            tell: takes what could not be written, as an event, once for each reason.
        """
        self._journal, self._tell = journal, tell
        self._entries: SimpleQueue[Event | Future[None]] = SimpleQueue()
        self._told: set[str] = set()
        self.error: BaseException | None = None  # a bug that a write has met
        threading.Thread(target=self._write, name="journal", daemon=True).start()

    def keep(self, *events: Event) -> None:
        """Have events written, without waiting."""
        for event in events:
            if event.kind not in MINOR or self._entries.qsize() < MOST:
                self._entries.put(event)

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
        """Wait for what was given so far; return whether the disk has answered."""
        try:
            self._mark().exception(timeout=seconds)
        except NotDone:
            return False
        return True

    def _mark(self) -> Future[None]:
        """Return what is done when all events so far are written."""
        mark: Future[None] = Future()
        self._entries.put(mark)
        return mark

    # --- in its own thread

    def _write(self) -> None:
        failed: BaseException | None = None  # what befell the latest events
        while True:
            events, mark = self._next()
            failed = None if events else failed
            try:
                self._journal.append(*events)
            except CndError as error:
                failed = error
                self._tell_once(error)
            except BaseException as error:  # it ends the run, and no record
                failed = self.error = error
            if mark is None:
                continue
            if failed:
                mark.set_exception(failed)
            else:
                mark.set_result(None)

    def _next(self) -> tuple[list[Event], Future[None] | None]:
        """Wait for events; return those that are there, up to a mark."""
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

    def _tell_once(self, error: CndError) -> None:
        if str(error) not in self._told:
            self._told.add(str(error))
            self._tell(trouble(error))
