"""Whatever is raised in whatever function of a run, its fleet is gone in the end."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fault.truth import Victim

PROGRAM = Path(__file__).with_name("raising.py")
CHUNK, AT_ONCE = 20, 4  # cases a process; processes
SAMPLE = (
    "searching/replacements.py:_hand_over",
    "searching/recorder.py:_see",
    "searching/search_state.py:see",
    "searching/instance_monitor.py:_serve",
    "searching/narrator.py:sentence",
    "ending/shutdown.py:terminated",
    "ending/shutdown.py:_scram",
    "ending/scram.py:scram",
)


def carried_out(terminal: Victim, *words: str, within: float) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, PROGRAM, *words],
        env=terminal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=within,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def objection(case: dict[str, Any]) -> str:
    """Return what is wrong with a case: instances that live, and are not named.

    Or the exit status of what ends the program, which would be taken for CND's.
    """
    command = f"fab scram --run {case['run']} --cloud local --region us-east-1"
    wordless = case["ended"] == "LeakError" and command not in case["hint"]
    left = set(case["left"]) - set(case["ids"])
    foreign = case["ended"].startswith("SystemExit")
    return f"{case}" if left or wordless or foreign else ""


def judge(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        print("{phase:>9} {function:40} {raised:17} {seconds} s".format_map(case))
    took = [case["seconds"] for case in cases if case["seconds"] is not None]
    print(
        f"{len(cases)} cases, raised in {len(took)}; seconds to zero instances: "
        f"median {statistics.median(took):.2f}, worst {max(took):.2f}"
    )
    assert [wrong for case in cases if (wrong := objection(case))] == []


def test_what_is_raised_in_one_of_a_few_functions_leaves_nothing(
    terminal: Victim,
) -> None:
    cases = carried_out(terminal, *SAMPLE, within=120)
    judge(cases)
    assert [case["function"] for case in cases if case["seconds"] is None] == []


@pytest.mark.slow  # some four hundred runs
def test_what_is_raised_in_any_function_that_a_run_calls_leaves_nothing(
    terminal: Victim,
) -> None:
    (found,) = carried_out(terminal, "list", within=60)
    words = [
        f"{phase}/{function}"
        for phase, functions in found["called"].items()
        for function in functions
    ]
    chunks = [words[i : i + CHUNK] for i in range(0, len(words), CHUNK)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        told = pool.map(lambda c: carried_out(terminal, *c, within=60 * CHUNK), chunks)
        cases = [case for chunk in told for case in chunk]
    judge(cases)
    assert len(cases) == len(words)
