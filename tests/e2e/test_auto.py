"""`--instance-type auto`: the cheapest type that the account may launch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import a_state
from tests.support.terminal import Terminal, clean_environment

AUTO = ("--cloud", "local", "--instance-type", "auto")


@pytest.fixture(scope="module")
def free_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder with a local cloud whose account is on the free plan."""
    with a_state(tmp_path_factory, "free") as folder:
        yield folder


@pytest.fixture
def on_free_plan(free_state: Path, tmp_path: Path) -> Iterator[Terminal]:
    environment = clean_environment(free_state)
    environment["CND_LOCAL_ACCOUNT_KIND"] = "free-plan"
    user = Terminal(free_state, environment, tmp_path)
    yield user
    user.scram()


def taken(stderr: str) -> tuple[int, str]:
    """Return N and the type that auto takes, as the first lines say."""
    (line,) = [each for each in stderr.splitlines() if "auto takes " in each]
    count, _, name = line.partition("auto takes ")[2].partition(":")[0].split()
    assert " expected, found with " in line
    return int(count), name


def result_of(terminal: Terminal) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (terminal.runs()[-1] / "result.json").read_text()
    )
    return found


def test_auto_takes_what_the_account_may_launch(on_free_plan: Terminal) -> None:
    words = ("start", "--d", "4", "--n", "1", *AUTO, "--plain")
    done = on_free_plan.call(*words)
    assert done.returncode == 0
    assert taken(done.stderr) == (1, "t3.micro")
    first = next(line for line in done.stderr.splitlines() if "auto: " in line)
    assert "the cloud refuses it" in first
    planned = on_free_plan.call("plan", "--d", "4", *AUTO)
    assert taken(planned.stderr) == (1, "t3.micro")
    refused = on_free_plan.call(*words, "--budget", "0.0001")
    assert refused.returncode == 2
    reason, hint = [x for x in refused.stderr.splitlines() if "cloud:" not in x]
    assert reason == "cnd: --instance-type auto: no known type can do it"
    assert "a larger --budget" in hint


def test_auto_chooses_n_for_a_confidence_and_types_for_a_resumed_run(
    terminal: Terminal,
) -> None:
    wish = ("--d", "5", "--t", "60", "--confidence", "0.9", "--smallest", "--spot")
    done = terminal.call("start", *wish, *AUTO, "--plain")
    assert done.returncode == 0
    count, name = taken(done.stderr)
    result = result_of(terminal)
    assert (len(result["fleet"]), result["nonce"]) == (count, 46697)
    assert {each["type"] for each in result["fleet"]} == {name}
    # One that has not ended by a find can be resumed by another type, too.
    short = ("--d", "12", "--n", "1", "--t", "1", "--cloud", "local")
    assert terminal.call("start", *short).returncode == 10
    run = terminal.runs()[-1].name
    again = terminal.call("resume", run, "--t", "1", "--n", "1", *AUTO[2:])
    assert again.returncode == 10
    _, name = taken(again.stderr)
    assert {each["type"] for each in result_of(terminal)["fleet"]} == {name}


def test_auto_does_not_go_with_a_fleet_that_is_up(terminal: Terminal) -> None:
    done = terminal.call("start", "--d", "2", "--on", "newest", *AUTO)
    assert done.returncode == 2
    assert "--instance-type is decided with a launch" in done.stderr
