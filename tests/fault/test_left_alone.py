"""A fleet that ended without an orchestrator is reported by what it has left in S3."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from cnd import s3logs
from tests.fault.kills import killed
from tests.fault.truth import Victim
from tests.support.faults import kill
from tests.support.runs import told

LIMIT = 10.0  # seconds of search
NONCES = 600_000  # ten seconds' work of the three hosts
PATIENCE = 2.0  # seconds without a sign of life until these hosts go on alone
FLEET = ("--n", "3")
# By SSH of spot instances, whose watchdogs start soon after the worker.
WAY = {"ssh": ("--spot",), "user-data": ("--bootstrap", "user-data")}


def left_alone(
    terminal: Victim, *words: str, way: str, fatal: bool = False
) -> tuple[Path, float]:
    """Kill a run once all its workers search; return its folder when its fleet ended.

    And when that was, on the monotonic clock.

    Args:
        fatal: whether the last instance dies before it has a word to leave.
    """
    terminal.environment["CND_LOCAL_ORPHAN_SECONDS"] = str(PATIENCE)
    words = ("start", *FLEET, *WAY[way], *words)
    folder = killed(terminal, *words, when="worker.started", of=3)
    died = time.monotonic()
    if fatal:
        kill(terminal.cloud(), str(told(folder, "instance.launched")[-1]["host"]))
    terminal.see_zero(died, within=150, every=0.5)
    return folder, time.monotonic()


def report_of(terminal: Victim, run: str, index: int) -> tuple[str, str]:
    """Return bucket and key of what an instance has left of its worker's words."""
    cloud = terminal.cloud()
    account = terminal.client("sts").get_caller_identity()["Account"]
    name = f"{s3logs.LOGS}Instance{index}.json"
    return s3logs.bucket_name(account, cloud.region), s3logs.prefix(run) + name


def last_left(terminal: Victim, run: str) -> float:
    """Return when the last instance left its report, in seconds since the epoch."""
    s3 = terminal.client("s3")
    places = (report_of(terminal, run, index) for index in range(3))
    heads = [s3.head_object(Bucket=bucket, Key=key) for bucket, key in places]
    return float(max(head["LastModified"].timestamp() for head in heads))


def began_at(folder: Path) -> float:
    """Return when the first worker began, in seconds since the epoch."""
    return float(min(event["time"] for event in told(folder, "worker.started")))


def logged(folder: Path) -> list[int]:
    """Return how much each worker said in its host's log that it tested, at last."""
    logs = [path.read_text() for path in sorted((folder / "logs").iterdir())]
    return [int(re.findall(r" timeout .*tested=(\d+)", log)[-1]) for log in logs]


@pytest.mark.parametrize("way", WAY)
def test_a_fleet_that_reached_its_time_limit_alone_has_a_timeout_with_its_figures(
    terminal: Victim, way: str
) -> None:
    began = time.monotonic()
    folder, ended = left_alone(terminal, "--d", "30", "--t", f"{LIMIT:g}", way=way)
    time.sleep(2)  # so long after the fleet's end it is attached to, at least

    result = terminal.json("attach", folder.name, status=10)
    assert result["outcome"] == "timeout"
    assert [part["tested"] for part in result["coverage"]] == logged(folder)
    assert [part["ended"] for part in result["coverage"]] == ["timeout"] * 3
    # From the first beginning until the last report, which S3 dates by whole seconds:
    # up to one too early.
    searched = last_left(terminal, folder.name) - began_at(folder)
    assert LIMIT - 1.1 <= result["seconds"]["search"] <= searched + 1
    assert result["seconds"]["total"] <= ended - began + 1
    assert (result["terminated"], result["left_running"]) == (3, 0)
    lost = told(folder, "instance.lost")
    assert all(each["at"] <= each["time"] - 1 for each in lost)


@pytest.mark.parametrize("way", WAY)
def test_a_space_that_was_exhausted_alone_is_so_with_the_evidence_for_it(
    terminal: Victim, way: str
) -> None:
    space = ("--d", "30", "--t", "60", "--nonces", str(NONCES))
    folder, _ = left_alone(terminal, *space, way=way)
    result = terminal.json("attach", folder.name, status=11)
    assert (result["tested"], result["repeated"]) == (NONCES, 0)
    evidence = result["evidence"]
    assert evidence["witnesses"] > evidence["expected"] / 2 > 10


def test_of_a_fleet_one_of_which_left_nothing_the_outcome_is_incomplete(
    terminal: Victim,
) -> None:
    limits = ("--d", "30", "--t", f"{LIMIT:g}")
    folder, _ = left_alone(terminal, *limits, way="ssh", fatal=True)
    result = terminal.json("attach", folder.name, status=4)
    assert [part["ended"] for part in result["coverage"]] == [
        *["timeout"] * 2,
        "failed",
    ]
    assert "Instance2 went away while the run had no orchestrator" in result["reason"]
    tested = [part["tested"] for part in result["coverage"]]
    assert tested[:2] == logged(folder)


def test_what_is_false_or_garbage_in_what_was_left_is_not_believed(
    terminal: Victim,
) -> None:
    folder, _ = left_alone(terminal, "--d", "30", "--t", f"{LIMIT:g}", way="user-data")
    s3 = terminal.client("s3")
    bucket, key = report_of(terminal, folder.name, 0)
    report = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    lie = {"event": "exhausted", "cursor": 2**32, "tested": 5, "witnesses": []}
    report["parts"]["class-0-from-0"] = [[1, json.dumps(lie)]]
    s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(report).encode())
    bucket, key = report_of(terminal, folder.name, 1)
    s3.put_object(Bucket=bucket, Key=key, Body=b'{"instance": [[[\xff' + bytes(1000))

    result = terminal.json("attach", folder.name, status=4)
    ended = [part["ended"] for part in result["coverage"]]
    assert ended == ["failed", "failed", "timeout"]
    (refuted,) = told(folder, "worker.refuted")
    assert refuted["index"] == 0
    assert str(refuted["reason"]).startswith("exhausted, but 5 of ")
