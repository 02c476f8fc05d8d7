"""One tiny run on real AWS, with whatever credentials boto3 finds.

`pytest --live tests/live` costs about a cent.  It is refused where the worst case costs
more than BUDGET, and ends with nothing running, whatever happens.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BIN

BUDGET = "0.05"  # USD for each run, at worst
MINUTES = 15 * 60.0


class Account:
    """An AWS account: the user's own, with a state folder of the test's."""

    def __init__(self, state: Path) -> None:
        self._environment = {**os.environ, "XDG_STATE_HOME": str(state)}

    def run(self, *words: str, status: int | None = 0) -> str:
        done = subprocess.run(
            [BIN / "cnd", *words, "--cloud", "aws"],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=MINUTES,
        )
        print(done.stderr)
        assert status is None or done.returncode == status, done.stderr + done.stdout
        return done.stdout

    def live(self) -> list[str]:
        listed = json.loads(self.run("status", "--json"))["instances"]
        return [instance["id"] for instance in listed]


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    """The account; it must be empty of CND's machines, before and after."""
    account = Account(tmp_path)
    left = account.live()
    assert left == [], f"instances of CND are there already: {left}; `fab scram` first"
    yield account
    account.run("scram")
    assert account.live() == []


def test_the_account_is_fit(account: Account) -> None:
    print(account.run("doctor", "--n", "1", status=None))


@pytest.mark.parametrize("market", [(), ("--spot-or-on-demand",)])
def test_a_tiny_run_finds_its_nonce_and_leaves_nothing(
    account: Account, market: tuple[str, ...]
) -> None:
    words = ("--t", "60", "--d", "3", "--n", "1", "--budget", BUDGET, *market)
    result = json.loads(account.run("start", *words, "--json"))
    print(f"run {result['run']} cost about ${result['usd']}")
    assert (result["outcome"], result["nonce"]) == ("found", 4140)
    assert (result["terminated"], result["left_running"]) == (1, 0)
    assert account.live() == []
