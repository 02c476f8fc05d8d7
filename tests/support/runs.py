"""Runs in processes of their own, seen through their journals."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.support.forking import Process
from tests.support.processes import ended
from tests.support.terminal import RATE, Terminal
from tests.support.waiting import eventually

HOPELESS = ("start", "--d", "16", "--t", "100")  # a search without a find
# On a paced cloud: long enough to lose a host in the middle.
SLOWLY = ("--t", "150", "--json")
ENDLESS = ("start", "--d", "30", *SLOWLY)
NONCES = 15 * RATE  # five seconds' work of three hosts
SPACE = ("start", "--d", "30", "--nonces", str(NONCES), "--n", "3", *SLOWLY)
# The same for ten seconds: something is to happen before the end, on a busy machine.
LONG_NONCES = 2 * NONCES
LONG_SPACE = ("start", "--d", "30", "--nonces", str(LONG_NONCES), "--n", "3", *SLOWLY)


def events(folder: Path | None) -> list[dict[str, Any]]:
    """Return what the journal of a run tells, if there is one."""
    return [json.loads(line) for line in _lines(folder)]


def told(folder: Path | None, kind: str) -> list[dict[str, Any]]:
    """Return the events of one kind."""
    some = [json.loads(line) for line in _lines(folder) if kind in line]
    return [event for event in some if event["kind"] == kind]


def _lines(folder: Path | None) -> list[str]:
    path = folder / "events.jsonl" if folder else None
    if path is None or not path.exists():
        return []
    return path.read_text().split("\n")[:-1]


class Run:
    """A run in a process of its own, from the moment that its folder is there."""

    def __init__(self, terminal: Terminal, *words: str, program: str = "cnd") -> None:
        before = set(terminal.runs())
        self.process: Process = terminal.spawn(*words, program=program)
        (self.folder,) = eventually(lambda: set(terminal.runs()) - before)

    def told(self, kind: str) -> list[dict[str, Any]]:
        return told(self.folder, kind)

    def searching(self, count: int) -> list[str]:
        """Wait until `count` workers have told progress; return their hosts."""

        def hosts() -> list[str]:
            return sorted({e["host"] for e in self.told("worker.progress")})

        eventually(lambda: len(hosts()) >= count)
        return hosts()

    def has_told(self, kind: str, count: int) -> None:
        """Wait until so many events of a kind are told."""
        eventually(lambda: len(self.told(kind)) >= count)

    def result(self, within: float = 240.0) -> tuple[int, dict[str, Any]]:
        """Wait for the end; return the exit status and the result."""
        code, out, err = ended(self.process, within=within)
        assert out, err
        assert "Traceback" not in err
        result = json.loads(out)
        assert isinstance(result, dict)
        return code, result

    def exhausted(self, nonces: int = NONCES) -> dict[str, Any]:
        """Wait for the end; every nonce was tested, exactly those repeated twice."""
        code, result = self.result()
        assert (code, result["outcome"]) == (11, "exhausted"), result
        assert result["tested"] - result["repeated"] == nonces
        assert all(part["cursor"] >= nonces for part in result["coverage"])
        assert all(part["ended"] == "exhausted" for part in result["coverage"])
        assert result["left_running"] == 0
        return result

    def interrupted(self) -> dict[str, Any]:
        """End it by Ctrl-C; return its result."""
        self.process.send_signal(signal.SIGINT)
        code, result = self.result()
        assert code == 130
        assert result["left_running"] == 0
        return result


def searching(
    terminal: Terminal, *words: str, program: str = "cnd"
) -> tuple[Process, Path]:
    """Start a run; return it and its folder once all its --n workers search."""
    run = Run(terminal, *words, program=program)
    count = int(words[words.index("--n") + 1])
    run.has_told("worker.started", count)
    return run.process, run.folder
