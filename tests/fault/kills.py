"""Runs whose orchestrators are killed, by SIGKILL, at a chosen moment."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.fault.truth import Victim
from tests.support.forking import Process
from tests.support.runs import told
from tests.support.waiting import eventually


def killed(terminal: Victim, *words: str, when: str, of: int = 1) -> Path:
    """Start a run and SIGKILL it once `of` instances have told an event `when`."""
    before = set(terminal.runs())
    process = terminal.spawn(*words)
    folder = appeared(terminal, before)

    def tellers() -> set[int | None]:
        return {event.get("index") for event in told(folder, when)}

    eventually(lambda: len(tellers()) >= of)
    return kill(terminal, process, before)


def appeared(terminal: Victim, before: set[Path]) -> Path:
    """Wait for the folder of a new run; return it."""
    folder = eventually(lambda: newest(terminal, before), every=0.01)
    assert folder
    return folder


def kill(terminal: Victim, process: Process, before: set[Path]) -> Path:
    terminal.hit(process, signal.SIGKILL)
    folder = newest(terminal, before)
    assert folder is not None
    return folder


def newest(terminal: Victim, before: set[Path]) -> Path | None:
    new = sorted(set(terminal.runs()) - before)
    return new[-1] if new else None
