"""What the weather costs, and the figures of all runs in it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.terminal import Terminal
from tests.weather.whole_runs import a_user


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A user in calm weather: what a run takes there is what it is compared with."""
    with a_user(tmp_path_factory, "calm") as user:
        yield user


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if isinstance(report, pytest.TestReport)
        and report.when == "call"
        and "tests/weather/" in report.nodeid
    ]
    told: list[tuple[str, Any]] = [
        pair for report in reports for pair in report.user_properties
    ]
    kinds = {"leaked": 0, "lost": 0, "false": 0}
    for name, value in told:
        if name == "wrong":
            kinds[str(value).partition(":")[0]] += 1
    weathers = [value for name, value in told if name == "weather"]
    if not weathers:
        return
    line = ", ".join(f"{count} {name}" for name, count in kinds.items())
    seeds = sorted(int(re.findall(r"\d+", each)[0]) for each in weathers)
    terminalreporter.write_line(
        f"weather: {len(weathers)} whole runs, seeds {seeds[0]} to {seeds[-1]}: {line}"
    )
    if costs := [value for name, value in told if name == "weather_seconds"]:
        terminalreporter.write_line(
            f"what the weather costs a run: n={len(costs)}, median "
            f"{statistics.median(costs):.1f} s, worst {max(costs):.1f} s"
        )
