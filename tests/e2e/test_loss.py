"""A lost worker or instance costs no nonce: its class goes on elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Terminal, ended, eventually

# Long enough to lose a worker in the middle, short enough to be exhausted soon.
SLOWLY = ("--kernel", "hashlib", "--t", "120", "--json")
SPACE = ("--d", "30", "--nonces", "6000000", "--n", "3", *SLOWLY)


class Run:
    """A run in a process of its own, seen through its journal."""

    def __init__(self, terminal: Terminal, *words: str) -> None:
        before = set(terminal.runs())
        self.process = terminal.spawn("start", *words)
        eventually(lambda: set(terminal.runs()) - before, within=30)
        (self.folder,) = set(terminal.runs()) - before

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in found if event["kind"] == kind]

    def searching(self, count: int) -> None:
        """Wait until `count` workers have told progress."""
        eventually(
            lambda: len({e["index"] for e in self.events("worker.progress")}) >= count,
            within=40,
        )

    def result(self, within: float = 90.0) -> tuple[int, dict[str, Any]]:
        code, out, err = ended(self.process, within=within)
        assert out, err
        result = json.loads(out)
        assert isinstance(result, dict)
        return code, result


def ssh(terminal: Terminal, address: str, command: str) -> None:
    folder = terminal.state / "cnd" / "local"
    subprocess.run(
        [
            "ssh",
            "-F",
            folder / "ssh_config",
            "-i",
            terminal.state / "cnd/id_ed25519",
            address,
            command,
        ],
        check=True,
        timeout=20,
        capture_output=True,
    )


def assert_exhausted_once(code: int, result: dict[str, Any]) -> None:
    assert (code, result["outcome"]) == (11, "exhausted")
    assert result["tested"] - result["repeated"] == 6_000_000
    assert all(part["cursor"] >= 6_000_000 for part in result["coverage"])
    assert result["left_running"] == 0


@pytest.mark.skipif(not Path("/usr/bin/ssh").exists(), reason="needs ssh")
def test_a_killed_worker_leaves_no_hole(terminal: Terminal) -> None:
    run = Run(terminal, *SPACE)
    run.searching(3)
    victim = run.events("instance.running")[1]
    killed = time.time()
    ssh(terminal, victim["address"], "kill -9 $(cat cnd-*/*/worker.pid)")
    code, result = run.result()
    assert_exhausted_once(code, result)
    (handed,) = run.events("class.handed_over")
    assert handed["index"] == victim["index"]
    assert handed["time"] - killed < 8


def test_where_all_are_out_of_reach_they_are_waited_for(terminal: Terminal) -> None:
    """As when a laptop was closed: it is our own network that was down."""
    space = ("--d", "30", "--nonces", "6000000", "--n", "1", *SLOWLY)
    run = Run(terminal, *space)
    run.searching(1)
    (event,) = run.events("worker.started")
    processes = hosts_processes(terminal, event["host"])
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: run.events("host.failed"), within=30)
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    code, result = run.result()
    assert_exhausted_once(code, result)
    assert result["repeated"] == 0
    assert run.events("host.returned") != []


def test_all_hosts_lost_is_incomplete_and_says_so(terminal: Terminal) -> None:
    run = Run(terminal, "--d", "30", "--n", "2", "--t", "120", "--json")
    run.searching(2)
    for event in run.events("worker.started"):
        for pid in hosts_processes(terminal, event["host"]):
            with contextlib.suppress(ProcessLookupError):  # its parent took it along
                os.kill(pid, signal.SIGKILL)
    code, result = run.result()
    assert (code, result["outcome"]) == (4, "incomplete")
    assert "class 0" in result["reason"]
    assert result["left_running"] == 0


def hosts_processes(terminal: Terminal, instance: str) -> list[int]:
    """Return the process of an embedded host, and all that work in its tree."""
    tree = str(terminal.state / "cnd" / "local" / "hosts" / instance)
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "cwd").startswith(tree):
                found.add(int(path.name))
                # The host takes in what was detached: it is the parent.
                found.add(int((path / "stat").read_text().rsplit(")")[-1].split()[1]))
        except OSError:
            continue
    assert len(found) > 1
    return sorted(found)
