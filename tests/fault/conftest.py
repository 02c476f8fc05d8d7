"""A user to whom faults happen, the truth at the end, and the sum of it all."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnd.local import Endpoint, clear_faults
from tests.fault.truth import Victim, forget, require
from tests.support.terminal import paced_environment


@pytest.fixture
def terminal(
    paced_state: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Victim]:
    """A user in some folder; nothing may be left at the end, and nothing false be said.

    What a case has left all the same is terminated: the next one shares the cloud.
    """
    user = Victim(paced_state, paced_environment(paced_state), tmp_path)
    before = set(user.runs())
    yield user
    try:
        require(user, before)
    finally:
        told = request.node.user_properties
        told.append(("faults", user.faults))
        told += [("seconds_to_zero", seconds) for seconds in user.seconds_to_zero]
        if set(user.runs()) != before:
            user.scram("--all-regions")


@pytest.fixture
def cloud(terminal: Victim) -> Iterator[Endpoint]:
    """The local cloud, to lay faults in; there are none before and after."""
    found = terminal.cloud()
    clear_faults(found)
    yield found
    forget(terminal, found)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    def of(outcome: str, when: str) -> list[pytest.TestReport]:
        found = terminalreporter.stats.get(outcome, [])
        return [
            r
            for r in found
            if isinstance(r, pytest.TestReport)
            and r.when == when
            and "tests/fault/" in r.nodeid
        ]

    survived, fatal = of("passed", "call"), of("failed", "call")
    if not survived and not fatal:
        return
    # What a case has told is whole only when it is over.
    over = of("", "teardown") + of("error", "teardown")
    told: list[Any] = [pair for report in over for pair in report.user_properties]
    faults = sum(value for name, value in told if name == "faults")
    bad = {report.nodeid for report in [*fatal, *of("error", "teardown")]}
    fine = len({report.nodeid for report in survived} - bad)
    terminalreporter.write_line(
        f"faults: {faults} injected in {len(survived) + len(fatal)} cases, "
        f"of which {fine} survived"
    )
    took = [value for name, value in told if name == "seconds_to_zero"]
    if took:
        terminalreporter.write_line(
            f"from a fault to 0 instances: n={len(took)}, median "
            f"{statistics.median(took):.1f} s, worst {max(took):.1f} s"
        )
