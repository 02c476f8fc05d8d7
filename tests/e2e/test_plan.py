"""What a user is told before the purchase, and that the purchase is just that."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.support.logins import log_in
from tests.support.terminal import Terminal

# Ten searches without luck: of each tenth of the geometric distribution for D = 6, a
# block whose first golden nonce lies in its middle (`pow.py --difficulty 6 --block B`).
TENTHS = {
    "block 26": 624_607,
    "block 32": 2_733_715,
    "block 5": 4_811_839,
    "block 57": 6_990_447,
    "block 33": 10_267_473,
    "block 6": 13_704_022,
    "block 19": 17_511_549,
    "block 1": 22_831_243,
    "block 4": 31_066_896,
    "block 24": 48_136_580,
}
# Of a type that no other test launches: what earlier runs measured would decide.
WISH = ("--t", "200", "--d", "5", "--confidence", "0.9", "--instance-type", "c7i.large")


def test_a_plan_is_printed_with_chance_time_and_price_and_buys_nothing(
    terminal: Terminal,
) -> None:
    before = terminal.runs()
    done = terminal.call("plan", "--t", "200", "--d", "7", "--n", "8")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("cloud: ")
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:8] if line)
    assert told["fleet"] == "8 x t3.micro, 16 vCPUs, ubuntu"
    assert "within 200 s" in told["found"]
    assert "measured" in told["hash"]
    assert told["price"] == "nothing: local cloud"
    assert "on EC2, cheapest first" in done.stdout
    assert terminal.runs() == before


@pytest.mark.parametrize(("minutes", "outlived"), [(40, True), (300, False)])
def test_a_plan_says_when_the_credentials_end_before_the_run_may(
    terminal: Terminal, tmp_path: Path, minutes: int, outlived: bool
) -> None:
    log_in(terminal, tmp_path, minutes=minutes)
    words = ("--t", "7200", "--d", "8", "--n", "2", "--cloud", "aws")
    planned = terminal.ask("plan", *words)
    said = [verdict for verdict in planned["verdicts"] if "credentials end" in verdict]
    assert len(said) == outlived


def test_a_budget_in_a_region_without_known_prices_is_refused(
    terminal: Terminal,
) -> None:
    """The local cloud has no price list, and the table is for us-east-1."""
    terminal.environment |= terminal.exports()
    words = ("--d", "2", "--cloud", "aws", "--region", "eu-west-2")
    assert terminal.ask("plan", *words)["usd"]["worst_case"] is None
    done = terminal.call("start", *words, "--budget", "100")
    assert done.returncode == 2
    assert "--budget cannot be guaranteed: the price of t3.micro" in done.stderr
    assert "leave out --budget" in done.stderr
    assert terminal.live() == []


def test_the_run_is_the_one_that_was_planned(terminal: Terminal) -> None:
    planned = terminal.ask("plan", *WISH)["plan"]
    result = terminal.json("start", *WISH)
    (folder,) = terminal.runs()[-1:]
    first = (folder / "events.jsonl").read_text().splitlines()[0]
    started = json.loads(first)
    assert started["kind"] == "run.started"
    for name in ("block", "difficulty", "instances", "nonces", "time_limit"):
        assert started[name] == planned[name]
    assert started["type"] == planned["instance_type"]
    assert started["lifetime"] == planned["lifetime"]
    assert result["instances"] == planned["instances"]
    assert result["usd"] == 0.0


@pytest.mark.paced
def test_a_run_teaches_the_next_plan(terminal: Terminal) -> None:
    """Of a fixed length, so that there is something to measure."""
    terminal.json("start", "--t", "2", "--d", "64", "--n", "1", status=10)
    found = terminal.ask("plan", "--t", "200", "--d", "7", "--n", "1")
    assert "earlier run" in found["hash_rate_source"]
    assert found["boot_seconds"] > 0


def test_a_type_of_which_nothing_is_known_is_tried_before_the_fleet_is_bought(
    terminal: Terminal,
) -> None:
    """As on AWS, where this machine's own rate says nothing."""
    terminal.environment |= terminal.exports()
    aws = ("--cloud", "aws", "--d", "4", "--t", "60", "--confidence", "0.9")
    words = (*aws, "--instance-type")
    refused = terminal.call("plan", *words, "c7g.medium")
    assert refused.returncode == 2
    assert "`fab start` without --n tries one instance first" in refused.stderr
    before = terminal.runs()
    done = terminal.run(
        *("start", *words, "c7g.medium", "--ssh-from", "127.0.0.0/8", "--json")
    )
    assert done.returncode == 0, done.stderr
    assert "a trial of 5 s on one instance measures it ($" in done.stderr
    assert json.loads(done.stdout)["outcome"] == "found"
    assert len(terminal.runs()) == len(before) + 2
    planned = terminal.ask("plan", *words, "c7g.medium")
    assert "earlier run" in planned["hash_rate_source"]


@pytest.mark.slow
def test_after_three_runs_the_plan_tells_how_long_ten_more_take(
    tmp_path: Path, terminal: Terminal
) -> None:
    """On hosts held to a rate, so that other work on this machine matters little."""
    own: dict[str, Any] = {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "CND_LOCAL_RATE": "2000000",
    }
    wish = ("--t", "200", "--d", "6", "--n", "2")
    try:
        for block in ("block 33", "block 6", "block 19"):
            terminal.json("start", *wish, "--block", block, **own)
        planned = terminal.ask("plan", *wish, **own)
        assert "3 earlier runs" in planned["hash_rate_source"]
        runs = [terminal.json("start", *wish, "--block", b, **own) for b in TENTHS]
    finally:
        terminal.run("local", "down", **own)
    assert [run["nonce"] for run in runs] == list(TENTHS.values())
    seconds = [run["seconds"]["search"] for run in runs]
    print(f"search: planned {planned['chances']}, measured {seconds}")
    half, mean = statistics.median(seconds), statistics.mean(seconds)
    assert half == pytest.approx(planned["chances"]["median_seconds"], rel=0.25)
    assert mean == pytest.approx(planned["chances"]["expected_seconds"], rel=0.25)


@pytest.mark.parametrize(
    ("image", "instance_type"),
    [("al2023", "c5.large"), ("debian", "t4g.micro")],
)
def test_a_run_finds_its_nonce_on_every_system(
    terminal: Terminal, image: str, instance_type: str
) -> None:
    words = ("--image", image, "--instance-type", instance_type)
    result = terminal.json("start", "--t", "60", "--d", "2", "--n", "2", *words)
    assert result["outcome"] == "found"
    (folder,) = terminal.runs()[-1:]
    assert len(list((folder / "logs").iterdir())) == 2


def test_auto_is_planned_as_the_type_that_it_takes(terminal: Terminal) -> None:
    words = ("plan", "--d", "10", "--nonces", "2**60", "--t", "600")
    done = terminal.call(*words, "--confidence", "0.9", "--instance-type", "auto")
    assert done.returncode == 0, done.stderr
    (line,) = [x for x in done.stderr.splitlines() if "auto takes " in x]
    count, _, name = line.partition("auto takes ")[2].partition(":")[0].split()
    assert "; the next, " in line
    assert f"{count} x {name}" in done.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ("plan", "--d", "6", "--instance-type", "auto,t3.micro"),
            "exclude each other",
        ),
        (("doctor", "--instance-type", "auto"), "a type that is named"),
        (
            ("plan", "--d", "12", "--confidence", "0.9", "--instance-type", "auto"),
            "no known type can do it",
        ),
    ],
)
def test_auto_where_it_means_nothing_is_refused(
    terminal: Terminal, words: tuple[str, ...], why: str
) -> None:
    done = terminal.call(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
    assert "Traceback" not in done.stderr
