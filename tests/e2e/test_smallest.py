"""The smallest golden nonce, through the front door, whatever N."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from cnd.bench import other_tools, ssh_comparison
from tests.support.terminal import Terminal
from tests.support.vectors import SMALLEST
from tests.support.waiting import eventually


def answers_with_the_smallest(terminal: Terminal, difficulty: int, n: int) -> None:
    options = ("--d", str(difficulty), "--n", str(n), "--t", "60")
    result = terminal.json("start", "--smallest", *options)
    assert result["nonce"] == SMALLEST[str(difficulty)]
    assert result["index"] == result["nonce"] % n
    assert result["smallest"] is True
    assert result["left_running"] == 0


@pytest.mark.parametrize(("difficulty", "n"), [(3, 3), (5, 5)])
def test_the_smallest_golden_nonce_is_the_answer(
    terminal: Terminal, difficulty: int, n: int
) -> None:
    answers_with_the_smallest(terminal, difficulty, n)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("difficulty", [1, 2, 3, 4, 5])
def test_the_answer_does_not_depend_on_n(
    terminal: Terminal, difficulty: int, n: int
) -> None:
    answers_with_the_smallest(terminal, difficulty, n)


def test_fleets_are_compared_by_runs_with_the_same_answer(terminal: Terminal) -> None:
    options = ("--n", "1,2", "--d", "3", "--repeat", "1")
    found = terminal.json("bench", "scaling", *options)
    assert found["nonce"] == SMALLEST["3"]
    assert [row["instances"] for row in found["rows"]] == [1, 2]
    assert [row["beside"] for row in found["rows"]] == [66.7, None]
    assert found["beside_is"] == "report"
    assert terminal.live() == []


def test_types_are_compared_by_their_rates_and_what_is_not_known_has_no_price(
    terminal: Terminal,
) -> None:
    (terminal.folder / "cnd.toml").write_text('block = "mine"\nimage = "debian"')
    words = ("--types", "t3.micro", "--seconds", "0.2", "--repeat", "2")
    chart = terminal.folder / "chart.svg"
    done = terminal.run("bench", "types", *words, "--chart", str(chart), "--json")
    assert done.returncode == 0, done.stderr
    (worth,) = json.loads(done.stdout)["types"]
    assert worth["least"] <= worth["nonces_per_second"] <= worth["most"]
    assert (worth["type"], worth["runs"], worth["usd_per_hour"]) == (
        "t3.micro",
        2,
        None,
    )
    assert "this machine's" in done.stderr
    assert "<svg" in chart.read_text()
    result = json.loads((terminal.runs()[-1] / "result.json").read_text())
    order = json.loads((terminal.runs()[-1] / "order.json").read_text())
    assert (result["block"], order["plan"]["image"]) == ("mine", "debian")


@pytest.mark.paced
@pytest.mark.parametrize("how", ["ctrl-c", "stop"])
def test_a_bench_ends_with_the_status_of_a_run_that_was_ended(
    terminal: Terminal, how: str
) -> None:
    words = ("scaling", "--n", "1", "--d", "12", "--t", "60")
    bench = terminal.spawn("bench", *words)
    eventually(lambda: any(i["state"] == "running" for i in terminal.live()))
    if how == "stop":
        assert terminal.run("stop").returncode == 0
    else:
        bench.send_signal(signal.SIGINT)
    _, told = bench.communicate(timeout=60)
    assert bench.returncode == {"ctrl-c": 130, "stop": 12}[how], told
    assert terminal.live() == []


def test_searches_that_are_over_at_once_are_reported_as_too_short(
    terminal: Terminal,
) -> None:
    done = terminal.run("bench", "scaling", "--n", "1", "--d", "4", "--repeat", "1")
    assert done.returncode == 0
    assert "share this machine's" in done.stderr
    assert "not how they search" in done.stderr.splitlines()[-1]
    assert "66.70 s" in done.stdout


def test_what_a_whole_run_takes_of_this_machine_is_measured(
    terminal: Terminal,
) -> None:
    options = ("--n", "2", "--d", "2", "--no-rivals")
    found = terminal.json("bench", "scale", *options)
    (row,) = found["rows"]
    assert (row["instances"], row["runs"]) == (2, 1)
    assert row["seconds"]["total"] > 0
    assert row["processor_per_instance"] == row["processor"] / 2 > 0
    assert row["memory"] > 10e6
    assert row["threads"] > 2
    assert row["cloud"] > 0
    assert row["fetched"] == 2
    assert row["calls"]["ec2:RunInstances"] == 1
    assert found["laps"] == []
    assert terminal.live() == []


def test_without_psutil_a_bench_of_whole_runs_says_what_to_install(
    terminal: Terminal, tmp_path: Path
) -> None:
    missing = "raise ModuleNotFoundError('gone', name='psutil')\n"
    (tmp_path / "psutil.py").write_text(missing)
    done = terminal.run("bench", "scale", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    needs, way_out = done.stderr.splitlines()
    assert needs == "cnd: bench scale needs psutil"
    assert way_out == "hint: pip install 'cnd[bench]'"


def test_every_tool_that_is_installed_reaches_every_host_of_a_comparison(
    terminal: Terminal,
) -> None:
    runs = len(terminal.runs())
    laps = terminal.json("bench", "scale", "--n", "3", "--d", "1")["laps"]
    assert [lap["who"] for lap in laps] == [
        ssh_comparison.OURS,
        *other_tools.installed(),
    ]
    for lap in laps:
        assert (lap["instances"], lap["done"]) == (3, 3), lap["who"]
        assert lap["seconds"] > 0 < lap["processor"]
    assert terminal.live() == []
    assert len(terminal.runs()) == runs + 1  # a comparison is no run


@pytest.mark.parametrize(
    "words",
    [
        ("scaling", "--n", "1,x"),
        ("scaling", "--n", "1,1"),
        ("scaling", "--types", "t3.micro"),
        ("scaling", "--seconds", "5"),
        ("scaling", "--no-rivals"),
        ("kernel", "--n", "4"),
        ("kernel", "--csv"),
        ("kernel", "--region", "eu-west-2"),
        ("scaling", "--repeat", "0"),
        ("scaling", "--chart", "a.gif"),
        ("scaling", "--beside", "none.csv"),
        ("types",),
        ("types", "--types", "t3.micro", "--d", "5"),
        ("types", "--types", "t3.micro", "--seconds", "-1"),
        ("everything",),
        ("scale", "--n", "0"),
        ("scale", "--n", "8,8"),
        ("scale", "--repeat", "often"),
        ("scale", "--cloud", "aws"),
        ("scale", "--csv"),
        ("scale", "--chart", "a.svg"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    terminal: Terminal, words: tuple[str, ...]
) -> None:
    done = terminal.call("bench", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("cnd: ")
    assert terminal.runs() == [] or terminal.live() == []


def test_a_host_is_held_to_a_rate_and_every_output_names_it(
    tmp_path: Path, terminal: Terminal
) -> None:
    own: dict[str, Any] = {"XDG_STATE_HOME": str(tmp_path), "CND_LOCAL_RATE": "2000"}
    try:
        words = ("start", "--d", "3", "--n", "1", "--smallest", "--json")
        done = terminal.run(*words, **own)
        assert "held to 2,000 nonces/s" in done.stderr
        result = json.loads(done.stdout)
        assert result["nonce"] == SMALLEST["3"]
        assert result["seconds"]["search"] >= 0.95 * result["nonce"] / 2000
        other = terminal.run("local", "up", **{**own, "CND_LOCAL_RATE": "3000"})
        assert other.returncode == 2
        assert "CND_LOCAL_RATE=2000" in other.stderr
    finally:
        terminal.run("local", "down", **own)
