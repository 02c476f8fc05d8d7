"""The runs on this disk: one folder each, in the state folder.

One rule: what must survive a crash is on disk before the action that it records; a
run's folder can be read at any moment, also while the run goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from cnd.errors import UsageError
from cnd.model.events import Event, plain
from cnd.model.run_name import is_run
from cnd.run.event_files import EventFiles
from cnd.system import private_files
from cnd.system.folders import state_folder
from cnd.system.locks import is_locked
from cnd.system.typed_json import misfit

RESULT = "result.json"
ORDER = "order.json"  # what a take-over needs; never leaves this disk
LOCK = "lock"  # held by the process that follows the run
DEEPEST = 16  # levels of nested lists and objects in a file that is read at once
LOCK_PATIENCE = 0.25  # seconds; a process that only looks holds it for a moment

# Bytes of a file that is read at once; the largest that CND writes has a twentieth.
MOST_BYTES = 16 << 20


class OlderCoverage(TypedDict):
    """How far a class was tested, as in a result of any version."""

    index: int
    cursor: int
    tested: int | None
    repeated: int
    ended: str


class Coverage(OlderCoverage, total=False):
    """The same, with what a run that goes on with the class needs."""

    of: int
    start: int
    next: int
    again: int
    again_at_most: int


class KeptResult(TypedDict, total=False):
    """The fields of a result that readers rely on, where they are present."""

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
    chain: list[str]
    tested_before: int
    repeated: int
    repeated_at_most: int
    tested_in_all: int | None
    smallest: bool | None


def runs(latest: int | None = None) -> list[str]:
    """Return the names of the runs on this disk, oldest first.

    Args:
        latest: only so many, the newest ones; None: all.  To look into each folder
            takes a second where tens of thousands are kept.
    """
    try:
        folder = state_folder() / "runs"
        names = sorted(filter(is_run, os.listdir(folder)), reverse=True)
    except (OSError, UsageError):  # there is no such folder, or it cannot be read
        return []
    # Empty folders are no runs.
    found = (name for name in names if _has_entries(folder / name))
    return list(islice(found, latest))[::-1]


def _has_entries(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entries)
    except OSError:
        return False


class Journal(EventFiles):
    """The folder of one run: its events, result and logs."""

    def __init__(self, run: str, folder: Path | None = None) -> None:
        """Make a journal that writes nothing yet, in `folder` or the usual place."""
        super().__init__()
        self.run = run
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where it is, or would be; `UsageError` where no home folder is known."""
        return self._folder or state_folder() / "runs" / self.run

    @property
    def is_there(self) -> bool:
        """Whether the run has a folder on this machine."""
        try:
            return self.folder.is_dir()
        except (OSError, UsageError):
            return False

    @property
    def is_over(self) -> bool:
        """Whether the run has ended: it has a result, perhaps a damaged one."""
        try:
            return os.path.lexists(self.folder / RESULT)
        except UsageError:
            return False

    @property
    def complaint(self) -> str:
        """What is wrong with the files that were read so far, or ""."""
        wrong = [f"{name} {why}" for name, why in sorted(self.damage.items())]
        return "; ".join(wrong) and f"{'; '.join(wrong)}: passed over"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, name: str) -> Path:
        """Return where the log of the instance called `name` (Instance3) belongs."""
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Make the folder; only its owner may read it."""
        with self._translated():
            above = state_folder()
            if above in self.folder.parents:
                private_files.folder(above)
                private_files.folder(self.folder.parent)
            private_files.folder(self.folder)
            self.logs.mkdir(0o700)
            private_files.sync(self.folder.parent)

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Be the one process that follows this run.

        Raises:
            UsageError: another process follows it, or the run has ended.
        """
        with self._translated():
            # A symbolic link may lead to another file, which must not be truncated.
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
        """Whether a process on this machine follows this run now."""
        try:
            return is_locked(self.folder / LOCK)
        except UsageError:  # no home folder is known
            return False

    def note_scram(self, terminated: int) -> None:
        """Record that a run without follower was ended, unless it is over."""
        if not self.is_there or self.is_over:
            return
        # A process that follows it records its end; a full disk costs the record.
        with contextlib.suppress(UsageError), self.followed():
            fields = {"terminated": terminated, "left": 0}
            self.append(Event("run.aborted", fields=fields))

    def write_order(self, order: Mapping[str, Any]) -> None:
        """Write what a take-over needs; on disk, mode 0600, on return."""
        with self._translated():
            text = json.dumps(order, indent=1)
            private_files.write(self.folder / ORDER, text, durable=True)

    def order(self) -> dict[str, Any]:
        """Return what `write_order` wrote; `UsageError` if it cannot be taken over."""
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

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json` so that no reader sees a part of it."""
        with self._translated():
            private_files.write(
                self.folder / RESULT, json.dumps(result, indent=2) + "\n"
            )

    def result(self) -> dict[str, Any] | None:
        """Return the result, or None while none can be read."""
        found = self._read(RESULT)
        if found is None or not (wrong := misfit(found, KeptResult)):
            return found
        self.damage[RESULT] = f"has no such {wrong}"
        return None

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return the JSON object in a file; None if there is none: see `damage`."""
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


def _pid(lock: int) -> str:
    """Return the process ID that is written in a lock file."""
    with contextlib.suppress(OSError):
        if (pid := os.read(lock, 20)).isdigit():
            return pid.decode()
    return "unknown"


def _take(lock: int) -> None:
    """Lock an open file; `BlockingIOError` if another process keeps the lock."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.01)
