"""The runs on this disk: one folder each, under the state folder.

One rule: what must survive a crash is on disk before the deed; a run's folder can be
read at any moment, also while the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnd.errors import UsageError
from cnd.events import Event, from_json

EVENTS = "events.jsonl"
RESULT = "result.json"
# On disk before anything is bought: with them a lost launch is found again.
DURABLE = frozenset({"run.started", "instance.requested"})


def state_folder() -> Path:
    """Return ``$XDG_STATE_HOME/cnd`` (default ``~/.local/state/cnd``)."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "cnd"


def runs() -> list[str]:
    """Return the names of the runs on this disk, oldest first."""
    folder = state_folder() / "runs"
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


class Journal:
    """The folder of one run: its events, result and logs."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.folder = state_folder() / "runs" / run

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, index: int) -> Path:
        return self.logs / f"Instance{index}.log"

    def create(self) -> None:
        """Make the folder; only its owner may look inside."""
        with self._translated():
            self.logs.mkdir(mode=0o700, parents=True)
            self.folder.chmod(0o700)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"cannot write to {self.folder}: {error.strerror}"
            hint = "make room there, or set XDG_STATE_HOME to another folder"
            raise UsageError(message, hint=hint) from error

    def append(self, event: Event) -> None:
        """Add one event; the durable ones are on disk on return."""
        line = event.to_json() + "\n"
        with (
            self._translated(),
            (self.folder / EVENTS).open("a", encoding="utf-8") as file,
        ):
            file.write(line)
            if event.kind in DURABLE:
                file.flush()
                os.fsync(file.fileno())

    def events(self) -> Iterator[Event]:
        """Yield the events so far; a line that is being written is left out."""
        try:
            file = (self.folder / EVENTS).open(encoding="utf-8")
        except FileNotFoundError:
            return
        with file:
            for line in file:
                with contextlib.suppress(ValueError):
                    yield from_json(line)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json` so that it is never seen half."""
        draft = self.folder / f"{RESULT}.draft"
        with self._translated():
            draft.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            draft.replace(self.folder / RESULT)

    def result(self) -> dict[str, Any] | None:
        """Return the result, or None while there is none."""
        try:
            found = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None
