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
from typing import Any, BinaryIO, TypedDict

from cnd.errors import UsageError
from cnd.model.events import Event, from_json, plain
from cnd.model.run_name import is_run
from cnd.system import private_files, small_files
from cnd.system.folders import state_folder
from cnd.system.typed_json import misfit

EVENTS = "events.jsonl"
RESULT = "result.json"
ORDER = "order.json"  # what a run needs to be taken over; never leaves this disk
LOCK = "lock"  # held by the process that follows the run
DEEPEST = 16  # lists and objects within each other, in what is read whole
LOCK_PATIENCE = 0.25  # seconds; whoever only looks holds it for a moment
# On disk before anything is bought: with them a lost launch is found again.
DURABLE = frozenset({"run.started", "instance.requested"})


# What a file may have that is read whole; the largest that CND writes has a twentieth.
MOST_BYTES = 16 << 20
LONGEST_LINE = 1 << 20  # bytes of an event


class Coverage(TypedDict):
    """How far a class was tested, as results tell it."""

    index: int
    cursor: int
    tested: int | None
    repeated: int
    ended: str


class KeptResult(TypedDict, total=False):
    """What readers rely on in a result, where it is there."""

    outcome: str
    reason: str
    nonce: int | None
    hash: str | None
    answer: str | None
    verified: bool | None
    index: int | None
    instance_id: str | None
    difficulty: int | None
    instances: int
    asked: int
    coverage: list[Coverage]
    hash_rate: float | None
    kernel: str | None
    seconds: dict[str, float | None]
    usd: float | None
    logs: dict[str, str | None]
    left_running: int
    receipt: dict[str, object]
    cloud: str
    region: str


def runs() -> list[str]:
    """Return the names of the runs on this disk, oldest first."""
    try:
        found = sorted((state_folder() / "runs").iterdir())
    except (OSError, UsageError):  # there is none, or none that we may look into
        return []
    # What somebody else has put there is nobody's run; nor is what is empty.
    return [p.name for p in found if is_run(p.name) and _has_something(p)]


def _has_something(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False


class Journal:
    """The folder of one run: its events, result and logs."""

    def __init__(self, run: str, folder: Path | None = None) -> None:
        """Make a journal that writes nothing yet; `folder` is one of all runs' own."""
        self.run = run
        self._folder = folder
        self.damage: dict[str, str] = {}  # what was wrong with files that were read

    @property
    def folder(self) -> Path:
        """Where it is, or would be; `UsageError` where no home folder is known."""
        return self._folder or state_folder() / "runs" / self.run

    @property
    def is_there(self) -> bool:
        """Whether this machine has anything of the run."""
        try:
            return self.folder.is_dir()
        except (OSError, UsageError):
            return False

    @property
    def is_over(self) -> bool:
        """Whether the run has come to its end: it has a result, if a damaged one."""
        try:
            return os.path.lexists(self.folder / RESULT)
        except UsageError:
            return False

    @property
    def complaint(self) -> str:
        """What was wrong with files that were read so far, or ""."""
        told = [f"{name} {why}" for name, why in sorted(self.damage.items())]
        return "; ".join(told) and f"{'; '.join(told)}: passed over"

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
                private_files.folder(above)
                private_files.folder(self.folder.parent)
            private_files.folder(self.folder)
            self.logs.mkdir(0o700)
            private_files.sync(self.folder.parent)

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
            # What a link leads to is not ours to make empty.
            flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW
            lock = os.open(self.folder / LOCK, flags, 0o600)
        try:
            _take(lock)
            self._require_open()
            with self._translated():
                os.ftruncate(lock, 0)
                os.write(lock, b"%d" % os.getpid())
                self._end_last_line()
            yield
        except BlockingIOError as error:
            pid = _pid(lock)
            message = f"run {self.run} is followed already, by process {pid}"
            hint = f"`fab stop --run {self.run}` ends it from here"
            raise UsageError(message, hint=hint) from error
        finally:
            os.close(lock)

    @property
    def is_followed(self) -> bool:
        """Whether a process on this machine follows this run right now."""
        try:
            lock = os.open(self.folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)
        except (OSError, UsageError):
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
        if not self.is_there or self.is_over:
            return
        # Whoever follows it tells its end; a full disk costs the note.
        with contextlib.suppress(UsageError), self.followed():
            fields = {"terminated": terminated, "left": 0}
            self.append(Event("run.aborted", fields=fields))

    def _end_last_line(self) -> None:
        """End the line that a killed process has left half-written."""
        with contextlib.suppress(FileNotFoundError):
            with small_files.opened(self.folder / EVENTS) as file:
                if not file.seek(0, os.SEEK_END):
                    return
                file.seek(-1, os.SEEK_END)
                ended = file.read(1) == b"\n"
            if not ended:
                with private_files.open_end(self.folder / EVENTS) as file:
                    file.write(b"\n")

    def write_order(self, order: Mapping[str, Any]) -> None:
        """Write what taking over the run needs; on disk, mode 0600, on return."""
        with self._translated():
            text = json.dumps(order, indent=1)
            private_files.write(self.folder / ORDER, text, durable=True)

    def order(self) -> dict[str, Any]:
        """Return what `write_order` wrote; `UsageError` if nothing is to be done."""
        if not self.is_there:
            message = f"no run {self.run} was started on this machine"
            raise UsageError(message, hint="`fab status` shows runs")
        self._require_open()
        order = self.kept_order()
        if why := self.damage.get(ORDER):
            message = f"run {self.run} cannot be taken over: {ORDER} {why}"
            hint = f"`fab scram --run {self.run}` ends what is left of it"
            raise UsageError(message, hint=hint)
        if order is None:
            message = f"run {self.run} broke off before anything was launched"
            raise UsageError(message, hint="start anew")
        return order

    def _require_open(self) -> None:
        if self.is_over:
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
            private_files.open_end(self.folder / EVENTS) as file,
        ):
            file.writelines(event.to_json().encode() + b"\n" for event in events)
            if any(event.kind in DURABLE for event in events):
                file.flush()
                os.fsync(file.fileno())
                private_files.sync(self.folder)

    def events(self) -> Iterator[Event]:
        """Yield the events so far; a line that is being written is left out.

        So is what is no event: `damage` has how many such lines there were.
        """
        try:
            file = self._opened(EVENTS)
        except FileNotFoundError:
            return
        except OSError as error:
            self.damage[EVENTS] = f"cannot be read ({error.strerror})"
            return
        wrong = 0
        with file:
            for line in _lines(file):
                try:
                    event = from_json(line)
                except ValueError:
                    wrong += line.endswith(b"\n")
                else:
                    yield event
        if wrong:
            self.damage[EVENTS] = f"has {wrong} damaged line{'s' * (wrong > 1)}"

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json` so that it is never seen half."""
        with self._translated():
            private_files.write(
                self.folder / RESULT, json.dumps(result, indent=2) + "\n"
            )

    def result(self) -> dict[str, Any] | None:
        """Return the result, or None while there is none that can be read."""
        found = self._read(RESULT)
        if found is None or not (wrong := misfit(found, KeptResult)):
            return found
        self.damage[RESULT] = f"has no such {wrong}"
        return None

    def _opened(self, name: str) -> BinaryIO:
        try:
            return small_files.opened(self.folder / name)
        except UsageError as error:  # no home folder is known
            raise FileNotFoundError(str(error)) from error

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return the JSON object in a file; None, and `damage`, if there is none."""
        try:
            with self._opened(name) as file:
                text = file.read(MOST_BYTES + 1)
            if len(text) > MOST_BYTES:
                raise ValueError("is too large")
            return plain(text.decode(), deepest=DEEPEST)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.damage[name] = f"cannot be read ({error.strerror})"
        except ValueError:
            self.damage[name] = "is damaged"
        return None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines; of one that is too long what makes no event, but counts as one."""
    while line := file.readline(LONGEST_LINE):
        rest = line
        while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
            line, rest = b"\n", file.readline(LONGEST_LINE)
        yield line


def _pid(lock: int) -> str:
    """Return which process says that it holds a lock."""
    with contextlib.suppress(OSError):
        if (told := os.read(lock, 20)).isdigit():
            return told.decode()
    return "unknown"


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
