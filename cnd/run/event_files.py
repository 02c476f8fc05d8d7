"""The events of a run in files of its folder: to write them, and to read them.

One rule: what came later is never known without what came before it, whenever the
writer is killed.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from cnd.errors import UsageError
from cnd.model.checkpoint import Checkpoint
from cnd.model.events import Event, from_json
from cnd.run import progress_file
from cnd.run.progress_file import ProgressFile
from cnd.system import private_files, small_files

EVENTS = "events.jsonl"
# On disk before anything is bought: with them a lost launch is found again.
DURABLE = frozenset({"run.started", "instance.requested", "fleet.reused"})
LONGEST_LINE = 1 << 20  # bytes of an event


class EventFiles:
    """The files with the events of one run."""

    def __init__(self) -> None:
        self.damage: dict[str, str] = {}  # by file name: what is wrong with it

    @property
    def folder(self) -> Path:
        """Where they are, or would be."""
        raise NotImplementedError

    @functools.cached_property
    def progress(self) -> ProgressFile:
        """The latest progress of its classes, to be written."""
        return ProgressFile(self.folder)

    def append(self, *events: Event, recent: Sequence[tuple[int, Event]] = ()) -> None:
        """Add events; the durable ones are on disk on return.

        Args:
            recent: progress, each with the number of events before it.  It is written
                first: what came later must not be known without it.
        """
        if not events and not recent:
            return
        lines = [event.to_json().encode() + b"\n" for event in events]
        with self._translated():
            if recent:
                ends = [0, *accumulate(map(len, lines))]
                size = self._size()
                self.progress.append([(size + ends[i], event) for i, event in recent])
        if not lines:
            return
        with (
            self._translated(),
            private_files.open_end(self.folder / EVENTS) as file,
        ):
            file.writelines(lines)
            if any(event.kind in DURABLE for event in events):
                file.flush()
                os.fsync(file.fileno())
                private_files.sync(self.folder)

    def events(self) -> Iterator[Event]:
        """Yield the events so far; a line that is being written is left out.

        Lines that are no event are left out too: `damage` has their number.  Of the
        workers' progress there is what pictures need: see `history`.
        """
        return (event for _, event in self.placed_events())

    def placed_events(self, start: int = 0) -> Iterator[tuple[int, Event]]:
        """Yield the events from byte `start` on, each with the byte after it."""
        if (file := self._readable(EVENTS)) is None:
            return
        wrong = 0
        with file:
            file.seek(start)
            for line in _lines(file):
                try:
                    event = from_json(line)
                except ValueError:
                    wrong += line.endswith(b"\n")
                else:
                    yield file.tell(), event
        if wrong:
            self._note_wrong(EVENTS, wrong)

    def history(self) -> Iterator[Event | Checkpoint]:
        """Yield all that is known of the run, for `replay.replayed`.

        That is the events, and in their places the latest checkpoint and the progress
        that was reported since.  An older run has all progress among its events.
        """
        recent = deque(self._recent())
        before = 0
        for after, event in self.placed_events():
            while recent and recent[0][0] <= before:
                yield recent.popleft()[1]
            yield event
            before = after
        yield from (entry for _, entry in recent)

    def _recent(self) -> Iterator[tuple[int, Event | Checkpoint]]:
        if (file := self._readable(progress_file.NAME)) is None:
            return
        wrong = 0
        with file:
            for entry in progress_file.entries(file):
                wrong += entry is None
                if entry is not None:
                    yield entry
        if wrong:
            self._note_wrong(progress_file.NAME, wrong)

    def _readable(self, name: str) -> BinaryIO | None:
        """Open a file to read it; None if there is none, or see `damage`."""
        try:
            return self._opened(name)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.damage[name] = f"cannot be read ({error.strerror})"
            return None

    def _note_wrong(self, name: str, lines: int) -> None:
        self.damage[name] = f"has {lines} damaged line{'s' * (lines > 1)}"

    def keep_checkpoint(self, state: Checkpoint) -> None:
        """Replace the progress so far by a checkpoint; on disk on return."""
        with self._translated():
            self.progress.replace(self._size(), state)

    def _size(self) -> int:
        """Return how long the file of the events is, in bytes."""
        try:
            return (self.folder / EVENTS).stat().st_size
        except FileNotFoundError:
            return 0

    def _end_last_line(self) -> None:
        """End the line that a killed process has left incomplete."""
        with contextlib.suppress(FileNotFoundError):
            with small_files.opened(self.folder / EVENTS) as file:
                if not file.seek(0, os.SEEK_END):
                    return
                file.seek(-1, os.SEEK_END)
                ended = file.read(1) == b"\n"
            if not ended:
                with private_files.open_end(self.folder / EVENTS) as file:
                    file.write(b"\n")

    def _opened(self, name: str) -> BinaryIO:
        try:
            return small_files.opened(self.folder / name)
        except UsageError as error:  # no home folder is known
            raise FileNotFoundError(str(error)) from error

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"cannot write to {self.folder}: {error.strerror}"
            hint = "make room there, or set XDG_STATE_HOME to another folder"
            raise UsageError(message, hint=hint) from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines; for one that is too long, an empty one: it counts as damaged."""
    while line := file.readline(LONGEST_LINE):
        rest = line
        while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
            line, rest = b"\n", file.readline(LONGEST_LINE)
        yield line
