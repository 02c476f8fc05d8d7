"""Without SSH: the same events, logs and results, by way of S3."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import pytest

from tests.support.faults import kill
from tests.support.logins import log_in
from tests.support.runs import LONG_NONCES, Run
from tests.support.terminal import Terminal
from tests.support.waiting import eventually

BY_S3 = ("--bootstrap", "user-data", "--json")


def test_a_nonce_is_found_by_instances_without_ssh(
    terminal: Terminal,
) -> None:
    run = Run(terminal, "start", "--d", "4", "--n", "4", *BY_S3)
    eventually(lambda: run.told("instance.running"))
    (event, *_) = run.told("instance.running")
    ec2 = terminal.client("ec2")
    found = ec2.describe_instances(InstanceIds=[event["host"]])
    (group,) = found["Reservations"][0]["Instances"][0]["SecurityGroups"]
    (rules,) = ec2.describe_security_groups(GroupIds=[group["GroupId"]])[
        "SecurityGroups"
    ]
    assert rules["IpPermissions"] == []
    code, result = run.result()
    assert (code, result["outcome"], result["left_running"]) == (0, "found", 0)
    assert int(result["hash"], 16) < 16**60
    logs = sorted(path.name for path in (run.folder / "logs").iterdir())
    assert logs == [f"Instance{i}.log" for i in range(4)]
    assert "cnd-pow" in (run.folder / "logs" / "Instance3.log").read_text()
    assert len(run.told("host.done")) == 4


@pytest.mark.parametrize(
    ("minutes", "token", "status", "error", "hint"),
    [
        (
            60,
            5000,
            2,
            "EC2 takes 16,384: the session token in its URLs has 5,000",
            "ssh",
        ),
        (5, 100, 3, "then the instances get no more orders", "log in again first"),
    ],
)
def test_credentials_that_do_not_suffice_are_refused_before_anything_is_bought(
    terminal: Terminal,
    tmp_path: Path,
    minutes: int,
    token: int,
    status: int,
    error: str,
    hint: str,
) -> None:
    noise = base64.b64encode(random.Random(1).randbytes(token)).decode()[:token]
    log_in(terminal, tmp_path, minutes=minutes, token=noise)
    words = ("--d", "4", "--n", "2", "--cloud", "aws")
    done = terminal.call("start", *words, *BY_S3)
    assert done.returncode == status, done.stderr
    assert error in done.stderr
    assert hint in done.stderr.splitlines()[-1]
    assert terminal.live() == []


@pytest.mark.paced
def test_a_lost_instance_leaves_no_hole(terminal: Terminal) -> None:
    space = ("--d", "30", "--nonces", str(LONG_NONCES), "--n", "3")
    run = Run(terminal, "start", *space, *BY_S3)
    eventually(lambda: len(run.told("worker.started")) == 3)
    victim = run.told("worker.started")[0]
    kill(terminal.cloud(), victim["host"])
    code, result = run.result()
    assert (code, result["outcome"]) == (11, "exhausted")
    assert result["tested"] - result["repeated"] == LONG_NONCES
    (handed,) = run.told("class.handed_over")
    assert handed["index"] == victim["index"]


@pytest.mark.paced
def test_a_stop_message_reaches_them(terminal: Terminal) -> None:
    run = Run(terminal, "start", "--d", "30", "--n", "2", *BY_S3)
    eventually(lambda: len(run.told("worker.started")) == 2)
    terminal.run("stop", "--run", run.folder.name)
    code, result = run.result()
    assert (code, result["outcome"]) == (12, "stopped")
    assert len(run.told("worker.stopped")) == 2
    events = (run.folder / "events.jsonl").read_text().splitlines()
    assert json.loads(events[-1])["kind"] == "run.ended"
