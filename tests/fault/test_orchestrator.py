"""The orchestrator may die at any moment: its fleet is taken over, or ends itself."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnd import pow as worker
from tests.conftest import Terminal, ended, eventually

SLOWLY = ("--kernel", "hashlib", "--t", "120")
SPACE = ("start", "--d", "30", "--nonces", "4000000", "--n", "4", *SLOWLY)
Record = Callable[[str, object], None]
ORPHAN_PATIENCE = 30.0  # seconds; README tells it


def killed(terminal: Terminal, *words: str, when: str, of: int = 1) -> Path:
    """Start a run and SIGKILL it once `of` instances have told an event `when`."""
    before = set(terminal.runs())
    process = terminal.spawn(*words)

    def tellers() -> set[int]:
        return {event["index"] for event in told(newest(terminal, before), when)}

    eventually(lambda: len(tellers()) >= of, within=60)
    return kill(terminal, process, before)


def kill(terminal: Terminal, process: subprocess.Popen[str], before: set[Path]) -> Path:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    folder = newest(terminal, before)
    assert folder is not None
    return folder


def newest(terminal: Terminal, before: set[Path]) -> Path | None:
    new = sorted(set(terminal.runs()) - before)
    return new[-1] if new else None


def told(folder: Path | None, kind: str) -> list[dict[str, Any]]:
    path = folder / "events.jsonl" if folder else None
    if path is None or not path.exists():
        return []
    events = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    return [event for event in events if event["kind"] == kind]


def stored(terminal: Terminal, run: str) -> dict[str, bytes]:
    """Return what S3 has of a run, by name."""
    s3 = terminal.client("s3")
    (bucket,) = (b["Name"] for b in s3.list_buckets()["Buckets"])
    prefix = f"runs/{run}/"
    found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {
        item["Key"].removeprefix(prefix): s3.get_object(Bucket=bucket, Key=item["Key"])[
            "Body"
        ].read()
        for item in found
    }


def test_who_attaches_from_a_new_address_is_let_in_there(terminal: Terminal) -> None:
    words = ("--d", "30", "--nonces", "2000", "--n", "1", *SLOWLY)
    killed(terminal, "start", *words, when="instance.launched")
    ec2 = terminal.client("ec2")

    def groups() -> list[dict[str, Any]]:
        filters = [{"Name": "group-name", "Values": ["cnd-ssh"]}]
        found = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        return list(found)

    (group,) = groups()
    ec2.revoke_security_group_ingress(
        GroupId=group["GroupId"], IpPermissions=group["IpPermissions"]
    )
    terminal.json("attach", status=11)
    (permission,) = groups()[0]["IpPermissions"]
    assert [r["CidrIp"] for r in permission["IpRanges"]] == ["127.0.0.1/32"]


@pytest.mark.parametrize("when", ["instance.launched", "instance.ready"])
def test_a_run_that_was_killed_early_is_taken_over(
    terminal: Terminal, when: str
) -> None:
    killed(terminal, *SPACE, when=when)
    result = terminal.json("attach", status=11)
    assert result["tested"] - result["repeated"] == 4_000_000
    assert result["left_running"] == 0


def test_a_search_that_was_killed_is_taken_over_and_no_nonce_is_lost(
    terminal: Terminal,
) -> None:
    folder = killed(terminal, *SPACE, when="worker.progress")
    time.sleep(2)  # the search goes on meanwhile
    status = terminal.json("status")
    assert f"`fab attach {folder.name}`" in status["runs"][-1]["stands"]
    result = terminal.json("attach", folder.name, status=11)
    assert (result["tested"], result["repeated"]) == (4_000_000, 0)
    assert result["run"] == folder.name
    assert result["left_running"] == 0
    assert sorted(p.name for p in (folder / "logs").iterdir()) == [
        f"Instance{i}.log" for i in range(4)
    ]


def test_what_was_found_while_nobody_listened_is_the_answer(terminal: Terminal) -> None:
    words = ("start", "--d", "5", "--block", "quiet", "--n", "2", *SLOWLY)
    killed(terminal, *words, when="worker.started")
    time.sleep(8)  # far more than the search takes
    result = terminal.json("attach")
    assert result["outcome"] == "found"
    assert worker.is_golden(result["hash"], 5)


def test_two_cannot_follow_one_run(terminal: Terminal) -> None:
    folder = killed(terminal, *SPACE, when="worker.progress")
    first = terminal.spawn("attach", folder.name)
    eventually(lambda: told(folder, "run.attached"), within=20)
    second = terminal.run("attach", folder.name)
    assert second.returncode == 2
    assert f"followed already, by process {first.pid}" in second.stderr
    assert len(second.stderr.splitlines()) == 3  # which cloud; what; the way out
    code, _, _ = ended(first)
    assert code == 11
    third = terminal.run("attach", folder.name)
    assert third.returncode == 2
    assert "is over" in third.stderr


def test_start_tells_of_a_fleet_that_nobody_follows(terminal: Terminal) -> None:
    folder = killed(terminal, *SPACE, when="worker.started")
    done = terminal.run("start", "--d", "1", "--n", "1")
    assert done.returncode == 0
    assert f"`fab scram --run {folder.name}` ends it" in done.stderr
    assert terminal.run("scram", "--run", folder.name).returncode == 0
    assert terminal.live() == []


def test_an_orphaned_fleet_ends_by_itself_and_leaves_its_result(
    terminal: Terminal, record_property: Record
) -> None:
    words = ("start", "--d", "7", "--n", "8", "--t", "600", "--block", "orphans")
    folder = killed(terminal, *words, when="worker.progress", of=8)
    died = time.monotonic()
    eventually(lambda: terminal.live() == [], within=120, every=2)
    took = time.monotonic() - died
    record_property("seconds_to_zero", took)
    assert took > ORPHAN_PATIENCE - 10

    objects = stored(terminal, folder.name)
    logs = [f"logs/Instance{i}.log" for i in range(8)]
    assert sorted(objects) == [*logs, "orphan.json"]
    nonce = json.loads(objects["orphan.json"])["nonce"]
    assert worker.is_golden(worker.digest("orphans", nonce), 7)
    assert all(b"cnd-keeper" in objects[name] for name in logs)

    assert f"found {nonce}" in terminal.json("status")["runs"][-1]["stands"]
    result = terminal.json("attach", folder.name)
    assert (result["outcome"], result["nonce"]) == ("found", nonce)
    assert result["left_running"] == 0
    assert len(list((folder / "logs").iterdir())) == 8


def test_pre_signed_urls_and_keys_stay_where_they_belong(terminal: Terminal) -> None:
    result = terminal.json("start", "--d", "5", "--n", "2", "--keep")
    folder = terminal.state / "cnd" / "runs" / result["run"]
    secret = terminal.exports()["AWS_SECRET_ACCESS_KEY"].encode()
    texts = {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    texts |= stored(terminal, result["run"])
    hosts = terminal.state / "cnd" / "local" / "hosts"
    on_hosts = {p: p.read_bytes() for p in hosts.rglob("*") if p.is_file()}
    assert len(texts) >= 8
    for name, text in texts.items():
        assert b"X-Amz-Signature" not in text, name
        assert secret not in text, name
    jobs = 0
    for path, text in on_hosts.items():
        assert secret not in text, path
        if b"X-Amz-Signature" in text:
            assert path.name.startswith("class-"), path
            assert path.stat().st_mode & 0o777 == 0o600
            jobs += 1
    assert jobs == 2
    assert (folder / "order.json").stat().st_mode & 0o777 == 0o600
    terminal.run("scram")


def test_scram_reaches_every_region(terminal: Terminal) -> None:
    kept = ("start", "--d", "1", "--n", "1", "--keep", "--json")
    for region in ("us-east-1", "eu-west-2"):
        assert terminal.run(*kept, "--region", region).returncode == 0
    done = terminal.run("scram", "--all-regions")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("terminated i-") == 2
    assert terminal.json("status", "--region", "eu-west-2")["instances"] == []


PHASES = (
    *("run.started", "instance.requested", "instance.launched", "instance.running"),
    *("instance.ready", "worker.started", "worker.progress"),
)


@pytest.mark.parametrize("when", PHASES)
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_any_phase_leaves_nothing(
    terminal: Terminal, when: str, times: int
) -> None:
    """Once: in order, with logs of what searched.  Twice: at once."""
    before = set(terminal.runs())
    process = terminal.spawn("start", "--d", "30", "--n", "2", *SLOWLY)
    eventually(lambda: told(newest(terminal, before), when), within=40, every=0.005)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    code, _, err = ended(process)
    assert code == 130, err
    assert "Traceback" not in err
    assert terminal.live() == []


def forbid_growth(pid: int) -> None:
    """Let no file grow that a process writes: as on a full disk, without rights."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))


def test_a_disk_that_is_full_before_the_launch_buys_nothing(terminal: Terminal) -> None:
    terminal.exports()  # the cloud is up
    process = terminal.spawn("start", "--d", "2", "--n", "2")
    forbid_growth(process.pid)
    code, _, err = ended(process)
    assert code == 2, err
    assert "cannot write" in err
    assert "Traceback" not in err
    assert terminal.live() == []


def test_a_disk_that_fills_up_in_mid_run_keeps_nobody_alive(terminal: Terminal) -> None:
    before = set(terminal.runs())
    process = terminal.spawn("start", "--d", "30", "--n", "2", "--t", "4")
    eventually(lambda: told(newest(terminal, before), "worker.started"), within=40)
    forbid_growth(process.pid)
    code, out, err = ended(process)
    assert code == 10, err
    assert "cannot write" in err
    assert out.rstrip().endswith("0 instances running")
    assert terminal.live() == []


@pytest.mark.parametrize("seed", range(2))
def test_wherever_the_orchestrator_is_killed_scram_brings_it_to_zero(
    terminal: Terminal, record_property: Record, seed: int
) -> None:
    """A few of the sixty moments of the slow test below."""
    for took in kill_and_clean_up(terminal, random.Random(seed), rounds=3):
        record_property("seconds_to_zero", took)


@pytest.mark.slow
def test_sixty_moments_to_die_and_nothing_is_left(
    terminal: Terminal, record_property: Record
) -> None:
    for took in kill_and_clean_up(terminal, random.Random(2019), rounds=60):
        record_property("seconds_to_zero", took)


def kill_and_clean_up(
    terminal: Terminal, chance: random.Random, rounds: int
) -> list[float]:
    """Kill runs at random moments, a third of them next to RunInstances.

    Every second one is taken over, all are scrammed; return the seconds that took.
    """
    took: list[float] = []
    answers: list[bool] = []
    terminal.json("start", "--d", "1")  # the cloud is up
    for number in range(rounds):
        before = set(terminal.runs())
        process = terminal.spawn("start", "--d", "6", "--n", "2", *SLOWLY)
        if number % 3 == 0:
            eventually(
                lambda old=before: told(newest(terminal, old), "instance.requested"),  # type: ignore[misc]
                within=30,
                every=0.002,
            )
            moment = chance.uniform(0, 0.15)
        else:
            moment = chance.uniform(0, 4)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)
        print(f"killed after {moment:.3f} s")
        began = time.monotonic()
        if number % 2:
            folder = newest(terminal, before)
            name = [folder.name] if folder else []
            attached = terminal.run("attach", *name, timeout=90)
            assert attached.returncode in (0, 2, 4), attached.stderr
            answers.append(attached.returncode == 0)
        scrammed = terminal.run("scram")
        assert scrammed.returncode == 0, scrammed.stderr
        took.append(time.monotonic() - began)
        assert terminal.live() == []
    print(f"{sum(answers)} of {len(answers)} that were taken over had the answer")
    return took
