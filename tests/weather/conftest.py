"""What the weather costs, and the figures of all runs in it."""

from __future__ import annotations

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
    runs = [value for name, value in told if name == "weather_seconds"]
    if not runs:
        return
    line = ", ".join(f"{count} {name}" for name, count in kinds.items())
    terminalreporter.write_line(f"weather: {len(runs)} whole runs, {line}")
    terminalreporter.write_line(
        f"what the weather costs a run: n={len(runs)}, median "
        f"{statistics.median(runs):.1f} s, worst {max(runs):.1f} s"
    )
