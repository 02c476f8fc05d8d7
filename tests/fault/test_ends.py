"""However a run ends, its fleet is gone, and what came of it is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnd.local import Endpoint, lay_fault
from tests.fault.truth import Victim
from tests.support.faults import events_of, kill
from tests.support.processes import ended
from tests.support.runs import ENDLESS, LONG_NONCES, LONG_SPACE, Run
from tests.support.terminal import paced_environment
from tests.support.waiting import eventually


@pytest.fixture
def forgetful(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    """A user whose cloud forgets in seconds what AWS forgets in an hour."""
    state = tmp_path_factory.mktemp("forgetful")
    memory = {"CND_LOCAL_MEMORY_SECONDS": "8"}
    user = Victim(state, {**paced_environment(state), **memory}, tmp_path)
    yield user
    user.run("local", "down")


def test_numbers_without_end_on_a_workers_output_keep_no_fleet_alive(
    terminal: Victim, cloud: Endpoint
) -> None:
    run = Run(terminal, *LONG_SPACE)
    with events_of(cloud, run.searching(3)[0]).open("ab") as file:
        file.write(2 * (b'{"event": "progress", "rate": 1' + 400 * b"0" + b"}\n"))
        file.write(b'{"event": "progress", "time": 1' + 400 * b"0" + b"}\n")
        file.write(100_000 * b"[" + b"\n")
    run.exhausted(LONG_NONCES)
    noise = run.told("worker.noise")
    assert len([event for event in noise if "dropped" not in event]) == 4
    assert [event for event in noise if "dropped" in event]  # of the line of 100 KB
    assert terminal.live() == []


BROKEN = """
from cnd.cli.request import user_key
from cnd.cloud import connection
from cnd.model import plan, run_name
from cnd.run import job, journal, shutdown
from cnd.view import narrator

class Broken(narrator.Narrator):
    def show(self, event):
        if event.kind == "worker.started":
            raise ZeroDivisionError("a bug")
        super().show(event)

wanted = plan.Plan(difficulty=30, instances=2, time_limit=60)
record = journal.Journal(run_name.new_run())
record.create()
there = connection.required(connection.connect("local", "", launch=True))
key = user_key(None)
job.Job(wanted, there, record, view=Broken(wanted)).execute(key)
"""


def test_a_bug_on_the_way_and_another_at_the_end_leave_nothing(
    terminal: Victim,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN],
        env=terminal.environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError: a bug")
    assert len(terminal.runs()) >= 1
    assert terminal.live() == []


def test_a_loss_that_the_cloud_has_forgotten_is_no_leak(forgetful: Victim) -> None:
    words = ("start", "--d", "30", "--n", "2", "--t", "18")
    run = Run(forgetful, *words, "--json")
    victim = run.searching(2)[0]
    kill(forgetful.cloud(), victim)
    code, out, err = ended(run.process, within=90)  # and not after minutes
    assert code == 10, err
    result = json.loads(out)
    assert (result["terminated"], result["left_running"]) == (2, 0)
    assert victim in result["receipt"]["terminated"]
    assert forgetful.live() == []


@pytest.mark.slow  # AWS may list a new instance late: half a minute
def test_a_fleet_that_is_long_gone_is_no_leak_when_taken_over(
    forgetful: Victim,
) -> None:
    run = Run(forgetful, *ENDLESS, "--n", "2")
    hosts = run.searching(2)
    run.process.kill()
    run.process.communicate(timeout=60)
    ec2 = forgetful.client("ec2")
    ec2.terminate_instances(InstanceIds=hosts)
    eventually(lambda: ec2.describe_instances()["Reservations"] == [])
    result = forgetful.json("attach", run.folder.name, status=4)
    assert (result["terminated"], result["left_running"]) == (2, 0)
    assert sorted(result["receipt"]["terminated"]) == hosts


def test_a_find_is_reported_also_where_the_end_was_cut_short(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay_fault(cloud, {"host": "1", "kind": "never-boots"})  # its log is waited for
    run = Run(terminal, "start", "--d", "2", "--n", "2", "--json")
    eventually(lambda: run.told("log.pulled"))
    for _ in range(2):
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    code, out, err = ended(run.process)
    assert code == 130, err
    assert "Traceback" not in err
    result = json.loads(out)
    assert (result["outcome"], result["left_running"]) == ("found", 0)
    assert json.loads((run.folder / "result.json").read_text()) == result
    stands = terminal.json("status")["runs"][-1]["stands"]
    assert stands == f"found {result['nonce']}"
    assert terminal.live() == []
