"""A run goes on where another one ended, through the front door."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnd.model.plan import Plan
from cnd.run import successors
from cnd.run.journal import Journal
from tests.support.logins import log_in
from tests.support.terminal import Terminal
from tests.support.vectors import SMALLEST

RUN = "20260102-030405-abcd"
BLOCK = "COMSM0010cloud"
LARGER = 3730945  # golden at difficulty 6, and so at 5


def past(
    terminal: Terminal, order: dict[str, Any] | None = None, **result: Any
) -> Path:
    """Lay the folder of a run that has ended; return it."""
    folder = terminal.state / "cnd" / "runs" / RUN
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plan = Plan(9, 2, 30.0, nonces=1000)
    rows = [
        {"index": i, "cursor": 100 + i, "tested": 50, "repeated": 0, "ended": "timeout"}
        for i in range(2)
    ]
    whole = {
        **{"outcome": "timeout", "nonce": None, "smallest": None, "instances": 2},
        **{"cloud": "local", "region": "us-east-1", "coverage": rows},
        **{"plan": plan.options(), "block": BLOCK, "difficulty": 9},
    }
    (folder / "result.json").write_text(json.dumps({**whole, **result}))
    if order is not None:
        (folder / "order.json").write_text(json.dumps(order))
    return folder


@pytest.fixture(autouse=True)
def no_past(terminal: Terminal) -> Iterator[None]:
    """What was laid is gone afterwards: other tests look at all runs, too."""
    yield
    shutil.rmtree(terminal.state / "cnd" / "runs" / RUN, ignore_errors=True)


def refused(terminal: Terminal, *words: str) -> str:
    """Return the one line with which a run is refused, before anything is bought."""
    before, kept = terminal.runs(), len(terminal.live())
    done = terminal.call("resume", *words)
    said = [line for line in done.stderr.splitlines() if not line.startswith("cloud:")]
    assert done.returncode == 2, done.stderr
    assert len(said) == 2, said
    assert said[1].startswith("hint: ")
    assert (terminal.runs(), len(terminal.live())) == (before, kept)
    return said[0]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("20260102-030405-ffff",), "no run on this disk is called"),
        (("20260102-030405-ffff", "--region", "eu-west-1"), "no run on this disk is"),
        ((RUN, "--n", "0"), "--n must be 1 to 1000, not 0"),
        ((RUN, "--d", "8"), f"--d 8 is not that of run {RUN}, 9"),
        ((RUN, "--block", "x"), f"--block 'x' is not that of run {RUN}, '{BLOCK}'"),
        ((RUN, "--nonces", "2000"), f"--nonces 2000 is not that of run {RUN}, 1000"),
        ((RUN, "--cloud", "aws"), f"--cloud aws: run {RUN} was on local"),
        ((RUN, "--at-least", "3"), "--at-least must be 1 to 2, not 3"),
        ((RUN, "--spot", "--on-demand"), "--on-demand and --spot exclude each other"),
        ((RUN, "--hold", "--no-hold"), "--hold and --no-hold exclude each other"),
        ((RUN, "--budget", "-1"), "--budget must be more than 0 USD"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(
    terminal: Terminal, words: tuple[str, ...], why: str
) -> None:
    past(terminal)

    assert why in refused(terminal, *words)


EXHAUSTED = {"outcome": "exhausted"}
FOUND = {"outcome": "found", "nonce": 116, "difficulty": 2}
ENDED = [
    {"index": 0, "cursor": 1000, "tested": 500, "repeated": 0, "ended": "exhausted"}
]


@pytest.mark.parametrize(
    ("result", "words", "why"),
    [
        (EXHAUSTED, (), "is finished: every nonce was tested, none is golden"),
        (FOUND, (), "is finished: it found 116"),
        ({**FOUND, "smallest": True}, ("--smallest",), "116 is the smallest golden"),
        ({**FOUND, "nonce": 5}, ("--smallest",), "5 in its result is not golden"),
        ({"outcome": "incomplete", "coverage": ENDED}, (), "no nonce is left"),
        ({"coverage": [{**ENDED[0], "of": 0}]}, (), "no part of a coverage"),
        ({"coverage": "x"}, (), "cannot be resumed"),
    ],
)
def test_a_finished_search_is_refused_with_the_reason(
    terminal: Terminal, result: dict[str, Any], words: tuple[str, ...], why: str
) -> None:
    past(terminal, **result)

    assert why in refused(terminal, RUN, *words)


def test_a_run_that_still_searches_is_refused(terminal: Terminal) -> None:
    past(terminal)
    (terminal.state / "cnd/runs" / RUN / "result.json").unlink()

    with Journal(RUN, terminal.state / "cnd/runs" / RUN).followed():
        assert "still searches" in refused(terminal, RUN)


def test_a_run_whose_result_is_damaged_is_refused(terminal: Terminal) -> None:
    past(terminal)
    (terminal.state / "cnd/runs" / RUN / "result.json").write_text("{")

    assert "cannot be resumed: result.json is damaged" in refused(terminal, RUN)


def test_a_run_goes_on_where_it_was_and_nowhere_else(
    terminal: Terminal, tmp_path: Path
) -> None:
    """In its cloud, its account, and its region unless another one is asked for."""
    found = terminal.json("start", "--d", "9", "--nonces", "9", "--n", "1", status=11)
    order = json.loads(
        (terminal.state / "cnd/runs" / found["run"] / "order.json").read_text()
    )
    plan = {**order["plan"], "instances": 2, "nonces": 1000}
    order |= {"plan": plan, "region": "eu-west-1"}
    other, aws = {**order, "account": "999999999999"}, {**order, "cloud": "aws"}

    past(terminal, other)
    assert "belongs to account 999999999999, not 1" in refused(terminal, RUN)
    past(terminal, aws)
    assert f"--cloud local: run {RUN} was on aws" in refused(
        terminal, RUN, "--cloud", "local"
    )
    why = "boto3 finds no AWS credentials"
    assert f"run {RUN} was on aws: --cloud aws: {why}" in refused(terminal, RUN)

    past(terminal, order)
    terminal.environment["CND_REGION"] = "us-west-2"  # as configured today
    last = terminal.json("resume", RUN, status=11)
    assert (last["region"], last["tested_in_all"]) == ("eu-west-1", 1000)
    past(terminal, order, outcome="stopped")
    shutil.rmtree(terminal.state / "cnd" / "runs" / last["run"])
    words = ("resume", RUN, "--region", "us-east-2", "--n", "1")
    last = terminal.json(*words, status=11)
    assert (last["region"], last["instances"]) == ("us-east-2", 1)

    shutil.rmtree(terminal.state / "cnd" / "runs" / last["run"])

    log_in(terminal, tmp_path, minutes=60)
    past(terminal, {**other, "cloud": "aws"})
    assert "belongs to account 999999999999, not 1" in refused(terminal, RUN)
    past(terminal, order)
    assert f"--cloud aws: run {RUN} was on local" in refused(
        terminal, RUN, "--cloud", "aws"
    )


def test_smaller_nonces_than_the_one_found_are_searched_for_on_another_machine(
    terminal: Terminal,
) -> None:
    """Its result comes from S3; one instance tests what two have left."""
    first = terminal.json("start", "--d", "5", "--n", "2", "--block", BLOCK)
    assert "it found" in refused(terminal, first["run"])
    shutil.rmtree(terminal.state / "cnd" / "runs" / first["run"])
    # As if chance had had a larger one found first, before anything below was tested.
    rows = [
        {**row, "cursor": i, "next": i, "again": 0, "tested": 0, "ended": "stopped"}
        for i, row in enumerate(first["coverage"])
    ]
    nothing = {"coverage": rows, "tested": 0, "tested_in_all": 0}
    text = json.dumps({**first, **nothing, "nonce": LARGER})
    bucket, key = first["logs"]["s3"].removeprefix("s3://").split("/", 1)
    terminal.client("s3").put_object(
        Bucket=bucket, Key=f"{key}result.json", Body=text.encode()
    )
    # Its events are not there, as where the disk did not answer at its end.
    terminal.client("s3").delete_object(Bucket=bucket, Key=f"{key}events.jsonl")

    plan = terminal.ask("plan", "--resume", first["run"], "--smallest", "--n", "1")
    assert terminal.call("runs").returncode == 0
    assert terminal.call("report", first["run"]).returncode in (0, 2)
    last = terminal.json("resume", first["run"], "--smallest", "--n", "1", "--t", "60")

    assert (plan["plan"]["known"], plan["plan"]["chain"]) == (LARGER, [first["run"]])
    assert (last["nonce"], last["smallest"]) == (SMALLEST["5"], True)
    assert (last["resumes"], last["instances"]) == (first["run"], 1)
    assert last["tested_in_all"] >= SMALLEST["5"]


def test_a_plan_of_the_rest_counts_what_was_tested(terminal: Terminal) -> None:
    past(terminal)

    plan = terminal.ask("plan", "--resume", RUN, "--n", "4", "--t", "60")
    text = terminal.call("plan", "--resume", RUN).stdout

    assert plan["plan"]["tested_before"] == 100
    assert plan["plan"]["time_limit"] == 60.0
    assert sum(len(range(s, 1000, m)) for m, s, *_ in plan["plan"]["work"]) == 900
    assert "900 nonces; 100 were tested by 1 run" in text
    assert "at most 30 s" in text  # as it was asked for


SLOW = pytest.param("user-data", marks=pytest.mark.slow)


@pytest.mark.paced
@pytest.mark.parametrize("way", ["ssh", SLOW])
def test_a_run_is_resumed_by_any_number_of_instances(
    terminal: Terminal, way: str
) -> None:
    words = ("start", "--d", "9", "--nonces", "2**40", "--t", "1", "--n", "2")
    first = terminal.json(*words, "--bootstrap", way, status=10)

    second = terminal.json("resume", "--n", "3", status=10)
    third = terminal.json("resume", "--n", "1", status=10)

    assert [second["instances"], third["instances"]] == [3, 1]
    assert third["chain"] == [first["run"], second["run"]]
    assert third["tested_before"] == second["tested_in_all"]
    for each in (first, second, third):
        fresh = each["tested"] - each["repeated"]
        assert each["tested_before"] + fresh == each["tested_in_all"]
    status = terminal.ask("status")["runs"][-1]
    assert status["left"] >= 2**40 - third["tested_in_all"]
    assert f"`fab resume {third['run']}`" in terminal.call("status").stdout
    assert terminal.ask("runs")["runs"][-1]["resumes"] == second["run"]


SLOW_SCRIPT = """\
import json, sys, time
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "--check" in words:
    print(json.dumps({"valid": words["--check"] == "5500", "answer": "here"}))
    sys.exit()
start, of, nonces = (int(words[name]) for name in ("--start", "--of", "--nonces"))
for tested, nonce in enumerate(range(start, nonces, of)):
    if nonce == 5500:
        print(json.dumps({"event": "found", "nonce": nonce}), flush=True)
        sys.exit()
    time.sleep(0.001)
    if tested % 20 == 0:
        report = {"event": "progress", "cursor": nonce, "tested": tested}
        print(json.dumps(report), flush=True)
print(json.dumps({"event": "exhausted"}))
"""


def test_a_script_goes_on_with_what_it_has_not_tested(terminal: Terminal) -> None:
    script = terminal.folder / "slow.py"
    script.write_text(SLOW_SCRIPT)
    words = ("--worker", str(script), "--nonces", "6000", "--n", "2", "--t", "1")
    first = terminal.json("start", *words, status=10)
    script.unlink()

    last = terminal.json("resume", "--n", "3", "--t", "60")

    assert (last["nonce"], last["answer"], last["verified"]) == (5500, "here", True)
    assert last["resumes"] == first["run"]
    left = [range(row["cursor"], 6000, 2) for row in first["coverage"]]
    pieces = [range(row["start"], 6000, row["of"]) for row in last["coverage"]]
    assert sorted(n for piece in pieces for n in piece) == sorted(
        n for rest in left for n in rest
    )
    (terminal.state / "cnd" / "runs" / first["run"] / "worker.py").unlink()
    assert "its worker is not here" in refused(terminal, first["run"])


@pytest.mark.paced
def test_what_orphans_have_left_in_s3_counts_as_tested(terminal: Terminal) -> None:
    """As where the orchestrator was killed, and its fleet has ended itself later."""
    words = ("start", "--d", "9", "--nonces", "2**40", "--t", "0.2", "--n", "1")
    first = terminal.json(*words, status=10)
    folder = terminal.state / "cnd" / "runs" / first["run"]
    (folder / "result.json").unlink()
    order = json.loads((folder / "order.json").read_text())
    order["plan"]["witness_bits"] = None
    (folder / "order.json").write_text(json.dumps(order))
    known = [
        line
        for line in (folder / "events.jsonl").read_text().splitlines()
        if "worker.timeout" not in line
    ]
    (folder / "events.jsonl").write_text("\n".join(known) + "\n")
    host = first["fleet"][0]["id"]
    last = {"event": "timeout", "cursor": 123_456_789, "tested": 123_456_789}
    lines = [[1, json.dumps({"event": "started"})], [2, json.dumps(last)]]
    report = {"instance": host, "time": 0.0, "parts": {"class-0-from-0": lines}}
    bucket, key = first["logs"]["s3"].removeprefix("s3://").split("/", 1)
    terminal.client("s3").put_object(
        Bucket=bucket, Key=f"{key}logs/Instance0.json", Body=json.dumps(report).encode()
    )

    plan = terminal.ask("plan", "--resume", first["run"])["plan"]

    assert plan["tested_before"] == 123_456_789
    assert [start for _, start, *_ in plan["work"]] == [123_456_789]


# --- of a run from which another one has gone on


LATER = "20260102-030406-abcd"


def later(
    terminal: Terminal, *kinds: str, chain: tuple[str, ...] = (RUN,), **result: Any
) -> Path:
    """Lay the folder of a run that resumes RUN, with these events, beside its own."""
    folder = past(terminal).with_name(LATER)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    start = {"kind": "run.started", "time": 1.0, "run": LATER, "chain": chain}
    asked = {"block": BLOCK, "difficulty": 9, "instances": 2, "nonces": 1000}
    work = {"work": [[2, 100], [2, 101]], "tested_before": 100, "time_limit": 30.0}
    events = [{**start, **asked, **work}, *({"kind": k, "time": 2.0} for k in kinds)]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "events.jsonl").write_text(lines)
    if result:
        whole = json.loads((folder.parent / RUN / "result.json").read_text())
        plan = {**whole["plan"], "chain": chain, "tested_before": 100}
        text = json.dumps({**whole, "plan": plan, "tested": 100, **result})
        (folder / "result.json").write_text(text)
    return folder


@pytest.fixture
def no_later(terminal: Terminal) -> Iterator[None]:
    yield
    shutil.rmtree(terminal.state / "cnd" / "runs" / LATER, ignore_errors=True)


@pytest.mark.usefixtures("no_later")
def test_a_run_from_which_a_later_one_has_gone_on_is_refused(
    terminal: Terminal,
) -> None:
    """Its rest would be tested twice, and paid for twice."""
    later(terminal, "worker.started", outcome="timeout")
    said = refused(terminal, RUN)
    assert f"run {RUN} has gone on as run {LATER}: 900 nonces are left" in said
    assert terminal.call("plan", "--resume", RUN).returncode == 2
    left = {each["run"]: each["left"] for each in terminal.ask("runs")["runs"]}
    assert (left[RUN], left[LATER]) == (None, 900)

    later(terminal, "worker.started", outcome="exhausted")
    assert f"run {LATER} is finished: every nonce was tested" in refused(terminal, RUN)

    folder = later(terminal)
    with Journal(LATER, folder).followed():
        said = refused(terminal, RUN)
        assert f"run {LATER} goes on from run {RUN}, and still searches" in said
        left = {each["run"]: each["left"] for each in terminal.ask("runs")["runs"]}
        assert (left[RUN], left[LATER]) == (None, None)

    with (folder.with_name(RUN) / successors.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"another process resumes run {RUN} right now" in refused(terminal, RUN)


@pytest.mark.usefixtures("no_later")
@pytest.mark.parametrize(
    ("kinds", "result"),
    [
        ((), {}),  # it broke off before the launch
        (("instance.requested", "run.aborted"), {}),
        ((), {"outcome": "stopped", "tested": 0}),
    ],
)
def test_a_later_run_that_has_tested_nothing_bars_nothing(
    terminal: Terminal, kinds: tuple[str, ...], result: dict[str, Any]
) -> None:
    later(terminal, *kinds, **result)

    plan = terminal.ask("plan", "--resume", RUN)["plan"]

    assert (plan["chain"], plan["tested_before"]) == ([RUN], 100)


@pytest.mark.usefixtures("no_later")
@pytest.mark.parametrize("name", [LATER, "20990101-000000-abcd", f"../runs/{RUN}"])
def test_a_chain_that_names_no_older_run_leads_nowhere(
    terminal: Terminal, name: str
) -> None:
    later(terminal, chain=(name,), outcome="timeout", tested=0)

    assert terminal.ask("runs")["runs"]
    said = terminal.call("plan", "--resume", LATER)
    assert (said.returncode, len(said.stderr.splitlines())) in [(0, 1), (2, 2)]


@pytest.mark.usefixtures("no_later")
def test_a_run_that_broke_off_before_its_launch_goes_on_from_the_one_before(
    terminal: Terminal,
) -> None:
    """Ctrl-C while it was prepared: it has left one event, and no order."""
    later(terminal)

    plan = terminal.ask("plan", "--resume", LATER, "--n", "2")["plan"]

    assert plan["chain"] == [RUN, LATER]
    assert plan["tested_before"] == 100
    assert [piece[:2] for piece in plan["work"]] == [[2, 100], [2, 101]]
    with (terminal.state / "cnd/runs" / RUN / successors.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another one goes on with the same rest
        assert f"another process resumes run {LATER}" in refused(terminal, LATER)
