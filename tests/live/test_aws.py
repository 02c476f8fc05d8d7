"""A tiny run of each kind on real AWS, with whatever credentials boto3 finds.

`pytest --live tests/live` costs six cents at worst, and about one as a rule.  It is
refused where the worst case costs more than BUDGET, and where other runs are going on.
Whatever happens it ends with nothing running, and with `fab clean`: all that CND has
made in this account and region goes; its bucket stays, empty.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.terminal import BIN

BUDGET = "0.05"  # USD for each run, at worst
MINUTES = 15 * 60.0


class Account:
    """An AWS account: the user's own, with a state folder that only these tests use."""

    def __init__(self, state: Path) -> None:
        self._environment = {**os.environ, "XDG_STATE_HOME": str(state)}
        self._runs = state / "cnd" / "runs"

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

    def live(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self.run("status", "--json"))[
            "instances"
        ]
        return found

    def groups(self) -> list[str]:
        """Return the names of the Auto Scaling groups of CND."""
        import boto3

        pages = boto3.client("autoscaling").get_paginator(
            "describe_auto_scaling_groups"
        )
        ours = [{"Name": "tag-key", "Values": ["cnd:run"]}]
        return [
            group["AutoScalingGroupName"]
            for page in pages.paginate(Filters=ours)
            for group in page["AutoScalingGroups"]
        ]

    def clean(self) -> None:
        """Remove everything; refuse where it is not what these tests have left."""
        ours = (
            {path.name for path in self._runs.iterdir()}
            if self._runs.is_dir()
            else set()
        )
        foreign = {each["run"] for each in self.live()} - ours
        assert not foreign, f"runs are going on: {sorted(foreign)}; `fab scram` first"
        self.run("scram")
        assert self.live() == []
        assert self.groups() == []
        print(self.run("clean", "--yes"))


@pytest.fixture
def account(pytestconfig: pytest.Config) -> Iterator[Account]:
    """The account, without anything of CND's, before and after.

    The state folder stays, so that what a test left that was killed is known, and the
    key pair is always the same.
    """
    assert pytestconfig.cache is not None
    account = Account(pytestconfig.cache.mkdir("live"))
    account.clean()
    yield account
    account.clean()


def test_the_account_is_fit(account: Account) -> None:
    print(account.run("doctor", "--n", "1", status=None))


# Options of each kind of run -> how it differs.  The estimate of each is printed before
# it is bought: a t3.micro for at most 480 s, with its address, disk and credits, is 1.5
# cents at worst, and 0.2 when it is billed for a minute or so; without SSH the requests
# to S3 are added.
KINDS = {
    "on-demand": (),
    "spot": ("--spot-or-on-demand",),
    "user-data": ("--bootstrap", "user-data"),
    "hold": ("--hold",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiny_run_finds_its_nonce_and_leaves_nothing(
    account: Account, kind: str
) -> None:
    words = ("--t", "60", "--d", "3", "--n", "1", *KINDS[kind])
    estimate = json.loads(account.run("plan", *words, "--json"))["usd"]
    print(f"{kind}: about ${estimate['expected']}, at worst ${estimate['worst_case']}")

    result = json.loads(account.run("start", *words, "--budget", BUDGET, "--json"))

    print(f"run {result['run']} cost about ${result['usd']}")
    assert (result["outcome"], result["nonce"]) == ("found", 4140)
    assert (result["terminated"], result["left_running"]) == (1, 0)
    assert account.live() == []
    assert account.groups() == []
