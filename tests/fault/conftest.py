"""Sums up: how many faults were injected, survived, and how fast all was over."""

from __future__ import annotations

import statistics
from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: Any) -> None:
    def of(outcome: str) -> list[pytest.TestReport]:
        found = terminalreporter.stats.get(outcome, [])
        return [r for r in found if "tests/fault/" in r.nodeid and r.when == "call"]

    survived, fatal = of("passed"), of("failed")
    if not survived and not fatal:
        return
    terminalreporter.write_line(
        f"faults: {len(survived) + len(fatal)} cases, {len(survived)} survived"
    )
    took = [
        seconds
        for report in survived
        for name, seconds in report.user_properties
        if name == "seconds_to_zero" and isinstance(seconds, float)
    ]
    if took:
        terminalreporter.write_line(
            f"from a killed orchestrator to 0 instances: n={len(took)}, median "
            f"{statistics.median(took):.1f} s, worst {max(took):.1f} s"
        )
