"""A plan cannot hold invalid values."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from cnd.errors import UsageError
from cnd.model.plan import BOOT_ALLOWANCE, MAX_TIME_LIMIT, Plan

GOOD: dict[str, Any] = {"difficulty": 2, "instances": 8, "time_limit": 200.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"difficulty": -1},
        {"difficulty": 65},
        {"instances": 0},
        {"instances": 1001},
        {"time_limit": 0.0},
        {"time_limit": float("inf")},
        {"time_limit": float("nan")},
        {"boot_allowance": 0.0},
        {"boot_allowance": 3601.0},
        {"nonces": 0},
        {"nonces": 2**64 + 1},
        {"nonces": 7},  # fewer nonces than instances
        {"block": "x" * 4097},
        {"block": "\ud800"},  # no text
        {"image": "windows"},
        {"image": "ami-XYZ"},
        {"user": "somebody else"},
        {"user": "-oProxyCommand=x"},
        {"subnet": "vpc-1"},
        {"ssh_from": "0.0.0.0/0"},
        {"bootstrap": "ftp"},
        {"bootstrap": "user-data", "ssh_from": "192.0.2.0/24"},
        {"bootstrap": "user-data", "market": "spot"},
    ],
)
def test_an_impossible_plan_is_refused_in_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Plan(**{**GOOD, **changes})
    assert "\n" not in str(caught.value)


def test_the_largest_space_and_block_are_possible() -> None:
    Plan(**{**GOOD, "nonces": 2**64, "block": "ü" * 2048})


def test_a_run_that_would_outlive_its_pre_signed_urls_is_refused() -> None:
    """They are valid for a week at most."""
    longest = Plan(difficulty=2, instances=1, time_limit=MAX_TIME_LIMIT)
    assert longest.lifetime <= 7 * 86400
    with pytest.raises(UsageError, match="a week, less boot and end"):
        replace(longest, time_limit=MAX_TIME_LIMIT + 1)
    with pytest.raises(UsageError, match="a week, less boot and end"):
        replace(longest, time_limit=7 * 86400)


def test_an_instance_outlives_boot_and_search() -> None:
    assert Plan(**GOOD).lifetime > BOOT_ALLOWANCE + 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold": True, "keep": True}, "--hold and --keep exclude each other"),
        ({"hold": True, "replace": True}, "--hold and --replace"),
        ({"hold": True, "at_least": 1}, "--hold and --at-least"),
        ({"hold": True, "market": "spot-or-on-demand"}, "--hold and --spot-or-on"),
        ({"at_least": 9}, "--at-least must be 1 to N"),
        ({"gateway": "a b"}, "--gateway must be user@host:port"),
        ({"gateway": "-oProxyCommand=x"}, "--gateway must be user@host:port"),
        ({"gateway": "me@192.0.2.7"}, "--gateway: this machine's own address"),
        ({"address": "private"}, "--address private: this machine's own address"),
        ({"subnet": "subnet-1,x"}, "--subnet must be subnet-..."),
    ],
)
def test_contradictory_options_on_instances_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Plan(2, 8, 60.0, **options)


def test_a_gateway_needs_the_range_from_which_ssh_comes() -> None:
    plan = Plan(2, 8, 60.0, gateway="me@jump:2222", ssh_from="10.0.0.0/16")
    assert plan.gateway == "me@jump:2222"
