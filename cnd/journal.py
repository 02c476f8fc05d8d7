"""The runs on this disk: one folder each, under the state folder.

One rule: what must survive a crash is on disk before the deed; a run's folder can be
read at any moment, also while the run goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnd import private
from cnd.errors import UsageError
from cnd.events import Event, from_json
from cnd.naming import is_run

EVENTS = "events.jsonl"
RESULT = "result.json"
ORDER = "order.json"  # what a run needs to be taken over; never leaves this disk
LOCK = "lock"  # held by the process that follows the run
LOCK_PATIENCE = 0.25  # seconds; whoever only looks holds it for a moment
# On disk before anything is bought: with them a lost launch is found again.
DURABLE = frozenset({"run.started", "instance.requested"})


def state_folder() -> Path:
    """Return ``$XDG_STATE_HOME/cnd`` (default ``~/.local/state/cnd``)."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "cnd"


def runs() -> list[str]:
    """Return the names of the runs on this disk, oldest first."""
    folder = state_folder() / "runs"
    if not folder.is_dir():
        return []
    # What somebody else has put there is nobody's run; nor is what is empty.
    return sorted(
        path.name
        for path in folder.iterdir()
        if is_run(path.name) and path.is_dir() and any(path.iterdir())
    )


class Journal:
    """The folder of one run: its events, result and logs."""

    def __init__(self, run: str, folder: Path | None = None) -> None:
        """Make a journal that writes nothing yet; `folder` is one of all runs' own."""
        self.run = run
        self.folder = folder or state_folder() / "runs" / run

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, name: str) -> Path:
        """Return where the log of the instance called `name` (Instance3) belongs."""
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Make the folder; only its owner may look inside."""
        with self._translated():
            above = state_folder()
            if above in self.folder.parents:
                private.folder(above)
                private.folder(self.folder.parent)
            private.folder(self.folder)
            self.logs.mkdir(0o700)
            private.sync(self.folder.parent)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"cannot write to {self.folder}: {error.strerror}"
            hint = "make room there, or set XDG_STATE_HOME to another folder"
            raise UsageError(message, hint=hint) from error

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Be the one process that follows this run.

        Raises:
            UsageError: there is one, or the run has come to its end.
        """
        with self._translated():
            lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _take(lock)
            self._require_open()
            with self._translated():
                os.ftruncate(lock, 0)
                os.write(lock, b"%d" % os.getpid())
                self._end_last_line()
            yield
        except BlockingIOError as error:
            pid = os.read(lock, 20).decode() or "unknown"
            message = f"run {self.run} is followed already, by process {pid}"
            hint = f"`fab stop --run {self.run}` ends it from here"
            raise UsageError(message, hint=hint) from error
        finally:
            os.close(lock)

    @property
    def is_followed(self) -> bool:
        """Whether a process on this machine follows this run right now."""
        try:
            lock = os.open(self.folder / LOCK, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def note_scram(self, terminated: int) -> None:
        """Note that a run that nobody follows was ended; there is no more to it."""
        if not self.folder.is_dir() or self.result() is not None:
            return
        # Whoever follows it tells its end; a full disk costs the note.
        with contextlib.suppress(UsageError), self.followed():
            fields = {"terminated": terminated, "left": 0}
            self.append(Event("run.aborted", fields=fields))

    def _end_last_line(self) -> None:
        """End the line that a killed process has left half-written."""
        with contextlib.suppress(FileNotFoundError):
            text = (self.folder / EVENTS).read_bytes()
            if text and not text.endswith(b"\n"):
                with private.open_end(self.folder / EVENTS) as file:
                    file.write(b"\n")

    def write_order(self, order: Mapping[str, Any]) -> None:
        """Write what taking over the run needs; on disk, mode 0600, on return."""
        with self._translated():
            text = json.dumps(order, indent=1)
            private.write(self.folder / ORDER, text, durable=True)

    def order(self) -> dict[str, Any]:
        """Return what `write_order` wrote; `UsageError` if nothing is to be done."""
        if not self.folder.is_dir():
            message = f"no run {self.run} was started on this machine"
            raise UsageError(message, hint="`fab status` shows runs")
        self._require_open()
        if (order := self.kept_order()) is None:
            message = f"run {self.run} broke off before anything was launched"
            raise UsageError(message, hint="start anew")
        return order

    def _require_open(self) -> None:
        if self.result() is not None:
            message = f"run {self.run} is over"
            raise UsageError(message, hint=f"its result is in {self.folder}")

    def kept_order(self) -> dict[str, Any] | None:
        """Return what `write_order` wrote, also of a run that is over, or None."""
        return self._read(ORDER)

    def append(self, *events: Event) -> None:
        """Add events; the durable ones are on disk on return."""
        if not events:
            return
        with (
            self._translated(),
            private.open_end(self.folder / EVENTS) as file,
        ):
            file.writelines(event.to_json().encode() + b"\n" for event in events)
            if any(event.kind in DURABLE for event in events):
                file.flush()
                os.fsync(file.fileno())
                private.sync(self.folder)

    def events(self) -> Iterator[Event]:
        """Yield the events so far; a line that is being written is left out."""
        try:
            file = (self.folder / EVENTS).open(encoding="utf-8")
        except FileNotFoundError:
            return
        with file:
            for line in file:
                with contextlib.suppress(ValueError, RecursionError):
                    yield from_json(line)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json` so that it is never seen half."""
        with self._translated():
            private.write(self.folder / RESULT, json.dumps(result, indent=2) + "\n")

    def result(self) -> dict[str, Any] | None:
        """Return the result, or None while there is none."""
        return self._read(RESULT)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def _take(lock: int) -> None:
    """Take an open lock file for oneself; BlockingIOError if another keeps it."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.01)
