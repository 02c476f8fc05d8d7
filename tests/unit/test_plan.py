"""A plan cannot hold nonsense."""

from __future__ import annotations

from typing import Any

import pytest

from cnd.errors import UsageError
from cnd.plan import BOOT_ALLOWANCE, Plan

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
    ],
)
def test_an_impossible_plan_is_refused_in_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Plan(**{**GOOD, **changes})
    assert "\n" not in str(caught.value)


def test_the_largest_space_and_block_are_possible() -> None:
    Plan(**{**GOOD, "nonces": 2**64, "block": "ü" * 2048})


def test_an_instance_outlives_boot_and_search() -> None:
    assert Plan(**GOOD).lifetime > BOOT_ALLOWANCE + 200
