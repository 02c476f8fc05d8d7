"""The latest progress of a run's classes, on disk at every moment: ``progress.jsonl``.

Its first line is a checkpoint, after that come the reports of progress since.  Before
it grows too large it is replaced by a newer checkpoint.  Each line begins with its
place: how long the file of the other events was then, so that all can be read in order.

One rule: a reader sees a checkpoint whole with what follows it, whenever the writer is
killed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from cnd.model import checkpoint
from cnd.model.checkpoint import Checkpoint
from cnd.model.events import Event, from_json, plain
from cnd.system import private_files

NAME = "progress.jsonl"
LARGE = 8 << 20  # bytes from which on it is to be replaced
SYNC_EVERY = 5.0  # seconds; what a machine that loses its power may lose
DEEPEST = 6  # levels of a checkpoint


class ProgressFile:
    """Writes the file of one run."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._next_sync = 0.0
        self.size = 0  # bytes that were written since the last checkpoint

    def append(self, entries: Sequence[tuple[int, Event]]) -> None:
        """Add reports, each with its position; `OSError` if that fails."""
        lines = [b"%d %s\n" % (at, e.to_json().encode()) for at, e in entries]
        with private_files.open_end(self._path) as file:
            file.writelines(lines)
            if time.monotonic() >= self._next_sync:
                file.flush()
                os.fsync(file.fileno())
                self._next_sync = time.monotonic() + SYNC_EVERY
        self.size += sum(map(len, lines))

    def replace(self, at: int, state: Checkpoint) -> None:
        """Begin anew with a checkpoint at position `at`; on disk on return.

        Raises:
            OSError: that fails; the file is as it was.
        """
        text = json.dumps(state.to_json(), separators=(",", ":"))
        line = b"%d %s\n" % (at, text.encode())
        private_files.write(self._path, line, durable=True)
        self.size = 0

    def remove(self) -> None:
        """Remove it: the result of the run has all of it."""
        self._path.unlink(missing_ok=True)


def entries(file: BinaryIO) -> Iterator[tuple[int, Event | Checkpoint] | None]:
    """Yield what a file has, with the positions; None for a damaged line.

    A line that is being written is left out.
    """
    for number, line in enumerate(file):
        if not line.endswith(b"\n"):
            return
        at, _, text = line.partition(b" ")
        try:
            place = int(at)
            if number == 0 and text.startswith(b'{"classes"'):
                record = plain(text, deepest=DEEPEST)
                yield place, checkpoint.from_json(record)
            else:
                yield place, from_json(text)
        except ValueError:
            yield None
