"""A lost worker or instance costs no nonce: its class goes on elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.runs import LONG_NONCES, LONG_SPACE, SLOWLY, Run
from tests.support.terminal import RATE, Terminal
from tests.support.waiting import SOON, eventually

pytestmark = pytest.mark.paced


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
        timeout=60,
        capture_output=True,
    )


@pytest.mark.skipif(not Path("/usr/bin/ssh").exists(), reason="needs ssh")
def test_a_killed_worker_leaves_no_hole(terminal: Terminal) -> None:
    run = Run(terminal, *LONG_SPACE)
    run.searching(3)
    victim = run.told("instance.running")[1]
    killed = time.time()
    ssh(terminal, victim["address"], "kill -9 $(cat cnd-*/*/worker.pid)")
    run.exhausted(LONG_NONCES)
    (handed,) = run.told("class.handed_over")
    assert handed["index"] == victim["index"]
    assert handed["time"] - killed < SOON


def test_where_all_are_out_of_reach_they_are_waited_for(terminal: Terminal) -> None:
    """As when a laptop was closed: it is our own network that was down."""
    space = ("--d", "30", "--nonces", str(12 * RATE), "--n", "1", *SLOWLY)
    run = Run(terminal, "start", *space)
    run.searching(1)
    (event,) = run.told("worker.started")
    processes = hosts_processes(terminal, event["host"])
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: run.told("host.failed"))
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    result = run.exhausted(12 * RATE)
    assert result["repeated"] == 0
    assert run.told("host.returned") != []


def test_all_hosts_lost_is_incomplete_and_says_so(terminal: Terminal) -> None:
    run = Run(terminal, "start", "--d", "30", "--n", "2", "--t", "120", "--json")
    run.searching(2)
    for event in run.told("worker.started"):
        for pid in hosts_processes(terminal, event["host"]):
            with contextlib.suppress(ProcessLookupError):  # its parent took it along
                os.kill(pid, signal.SIGKILL)
    code, result = run.result()
    assert (code, result["outcome"]) == (4, "incomplete")
    assert "class 0" in result["reason"]
    assert result["left_running"] == 0


def hosts_processes(terminal: Terminal, instance: str) -> list[int]:
    """Return the processes of a local host: its own, and all that work in its tree."""
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
