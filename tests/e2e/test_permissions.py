"""Whole runs in an account that has the rights of docs/aws.md, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conftest import a_state
from tests.support.aws import policy
from tests.support.runs import HOPELESS, searching
from tests.support.terminal import Terminal, paced_environment

# As organizations have it, beside the policy of the caller.
ONLY_IMDSV2 = {
    "Effect": "Deny",
    "Action": "ec2:RunInstances",
    "Resource": "arn:aws:ec2:*:*:instance/*",
    "Condition": {"StringNotEquals": {"ec2:MetadataHttpTokens": "required"}},
}
START = ("start", "--t", "60", "--d", "2", "--n", "2")


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A user with the rights of docs/aws.md, where IMDSv2 is required."""
    with a_state(tmp_path_factory, "rights") as folder:
        path = folder / "policy.json"
        statements = [*policy(), ONLY_IMDSV2]
        document = {"Version": "2012-10-17", "Statement": statements}
        path.write_text(json.dumps(document))
        environment = {**paced_environment(folder), "CND_LOCAL_POLICY": str(path)}
        user = Terminal(folder, environment, folder)
        user.cloud()  # forked, see tests/conftest.py
        yield user


@pytest.mark.parametrize(
    "more", [(), ("--spot",), ("--hold",), ("--bootstrap", "user-data")]
)
def test_a_run_of_each_kind_needs_no_more_rights(
    account: Terminal, more: tuple[str, ...]
) -> None:
    done = account.run(*START, "--json", *more)

    assert done.returncode == 0, done.stderr
    assert "not authorized" not in done.stderr
    assert "trouble" not in done.stderr
    result = json.loads(done.stdout)
    assert (result["outcome"], result["left_running"]) == ("found", 0)


def test_to_end_a_run_and_to_clean_up_needs_no_more_rights(account: Terminal) -> None:
    process, _ = searching(account, *HOPELESS, "--n", "2", "--json")
    process.kill()
    process.wait(10)

    done = account.run("scram")
    assert done.returncode == 0, done.stderr
    assert "not authorized" not in done.stderr
    assert account.live() == []
    assert account.json("clean", "--yes")["left"] == {}


def test_a_right_that_is_missing_is_named_and_nothing_is_bought(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with a_state(tmp_path_factory, "fewer") as folder:
        path = folder / "policy.json"
        statements = [each for each in policy() if each["Sid"] != "Make"]
        document = {"Version": "2012-10-17", "Statement": statements}
        path.write_text(json.dumps(document))
        environment = {**paced_environment(folder), "CND_LOCAL_POLICY": str(path)}
        user = Terminal(folder, environment, folder)

        done = user.run(*START)

        assert done.returncode == 3, done.stderr
        assert "not authorized to perform: ec2:" in done.stderr
        assert "docs/aws.md" in done.stderr
        assert user.live() == []
