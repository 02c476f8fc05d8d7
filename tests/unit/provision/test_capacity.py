"""Which launch is requested next: laws, in small clouds of limited capacity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnd.cloud.failures import FREE_PLAN
from cnd.model.plan import Plan
from cnd.provision.capacity import (
    BATCH,
    THROTTLED_PAUSES,
    UNKNOWN_PAUSES,
    UNKNOWN_YET,
    UNSURE_PAUSES,
    LaunchAnswer,
    LaunchRequest,
    Wanted,
    bucket_pause,
    by_price,
    divided,
    next_request,
    pause,
)

SUBNETS = ("subnet-a", "subnet-b", "subnet-c")
CHEAP, DEAR = "t3.micro", "c7a.large"
SHORT, QUOTA = "InsufficientInstanceCapacity", "VcpuLimitExceeded"


@dataclass
class World:
    """A cloud with a capacity for each place, and a quota for each type."""

    room: Mapping[tuple[str, str], int]
    quota: Mapping[str, int] = field(default_factory=dict)
    asked: list[LaunchRequest] = field(default_factory=list)
    launched: dict[tuple[str, str], int] = field(default_factory=dict)

    def answer(self, request: LaunchRequest) -> LaunchAnswer:
        self.asked.append(request)
        place = (
            request.type,
            request.subnet or SUBNETS[0],
        )  # AWS's choice is the first one
        used = sum(n for (name, _), n in self.launched.items() if name == request.type)
        allowed = self.quota.get(request.type, 10**6) - used
        if allowed < request.least:
            return LaunchAnswer(request, refusal=QUOTA)
        free = self.room.get(place, 0) - self.launched.get(place, 0)
        if free < request.least:
            return LaunchAnswer(request, refusal=SHORT)
        given = min(request.most, free, allowed)
        self.launched[place] = self.launched.get(place, 0) + given
        return LaunchAnswer(request, given)

    def launch(self, wanted: Wanted) -> int:
        answers: list[LaunchAnswer] = []
        while request := next_request(wanted, answers):
            answers.append(self.answer(request))
            assert len(answers) < 1000, "it goes on for ever"
        return sum(answer.launched for answer in answers)


def wanted(n: int, least: int = 0, types: tuple[str, ...] = (CHEAP, DEAR)) -> Wanted:
    return Wanted(n, least or n, types, ("", *SUBNETS))


PLACES = [(name, subnet) for name in (CHEAP, DEAR) for subnet in SUBNETS]
ROOMS = st.fixed_dictionaries({place: st.integers(0, 150) for place in PLACES})


@given(ROOMS, st.integers(1, 1000))
def test_all_available_capacity_is_found_and_no_more_is_launched(
    room: dict[tuple[str, str], int], n: int
) -> None:
    world = World(room)
    assert world.launch(wanted(n)) == min(n, sum(room.values()))
    assert all(1 <= request.least <= request.most <= BATCH for request in world.asked)


@given(ROOMS, st.integers(2, 300), st.integers(0, 300), st.data())
def test_a_quota_is_used_up_if_fewer_instances_are_accepted(
    room: dict[tuple[str, str], int], n: int, quota: int, data: st.DataObject
) -> None:
    least = data.draw(st.integers(1, n - 1))
    world = World(room, {CHEAP: quota, DEAR: 0})
    there = sum(room[CHEAP, subnet] for subnet in SUBNETS)
    assert world.launch(wanted(n, least)) == min(n, there, quota)


def test_with_enough_capacity_one_request_suffices() -> None:
    world = World({(CHEAP, SUBNETS[0]): 8})
    assert world.launch(wanted(8)) == 8
    assert world.asked == [LaunchRequest(CHEAP, "", 8, 8)]


def test_a_fleet_in_one_zone_is_tried_before_one_in_parts() -> None:
    world = World({(CHEAP, SUBNETS[0]): 7, (CHEAP, SUBNETS[2]): 8})
    assert world.launch(wanted(8)) == 8
    assert world.launched == {(CHEAP, SUBNETS[2]): 8}


def test_parts_of_the_cheap_type_are_tried_before_the_expensive_one() -> None:
    world = World({(CHEAP, s): 5 for s in SUBNETS} | {(DEAR, SUBNETS[0]): 20})
    assert world.launch(wanted(12)) == 12
    assert {name for name, _ in world.launched} == {CHEAP}


def test_a_thousand_instances_are_launched_in_batches() -> None:
    world = World({(CHEAP, SUBNETS[0]): 2000})
    assert world.launch(wanted(1000)) == 1000
    assert world.asked == [LaunchRequest(CHEAP, "", BATCH, BATCH)] * 10


def test_a_whole_fleet_that_the_quota_forbids_is_not_launched_in_parts() -> None:
    world = World({(CHEAP, s): 100 for s in SUBNETS}, {CHEAP: 5})
    assert world.launch(wanted(8, types=(CHEAP,))) == 0
    assert len(world.asked) == 1


def test_a_throttled_request_is_sent_again_for_half_a_minute_and_no_longer() -> None:
    pauses = [pause(["RequestLimitExceeded"] * n) for n in range(1, 7)]
    assert pauses == [*THROTTLED_PAUSES, None]
    assert 20 < sum(THROTTLED_PAUSES) < 60


@pytest.mark.parametrize("code", sorted(UNKNOWN_YET))
def test_what_was_just_made_may_be_unknown_for_half_a_minute(code: str) -> None:
    pauses = [pause([code] * n) for n in range(1, 2 + len(UNKNOWN_PAUSES))]
    assert pauses == [*UNKNOWN_PAUSES, None]
    assert 25 < sum(UNKNOWN_PAUSES) < 35


def test_a_type_that_the_free_plan_forbids_is_asked_for_once() -> None:
    wanted_types = wanted(4, types=(DEAR, CHEAP))
    first = next_request(wanted_types, [])
    assert first is not None and first.type == DEAR
    answers = [LaunchAnswer(first, refusal=FREE_PLAN)]
    second = next_request(wanted_types, answers)
    assert second is not None and second.type == CHEAP
    answers.append(LaunchAnswer(second, refusal=FREE_PLAN))
    assert next_request(wanted_types, answers) is None


@pytest.mark.parametrize("code", ["UnauthorizedOperation", SHORT, QUOTA, FREE_PLAN])
def test_a_final_refusal_is_not_repeated(code: str) -> None:
    assert pause([code]) is None


def test_a_request_whose_answer_was_lost_is_repeated() -> None:
    assert pause([""]) is not None


def test_each_cause_of_failure_has_its_own_patience() -> None:
    """What was unknown for seconds is not given up at the first internal error."""
    unknown = ["InvalidGroup.NotFound", "InvalidKeyPair.NotFound"] * 2
    assert pause([*unknown, "InternalError"]) == UNSURE_PAUSES[0]
    assert pause([*unknown, "InternalError", ""]) == UNSURE_PAUSES[1]
    assert pause([*unknown, "InternalError", unknown[0]]) == UNKNOWN_PAUSES[4]
    assert pause([*unknown, "RequestLimitExceeded"]) == THROTTLED_PAUSES[0]
    assert bucket_pause(["NoSuchBucket"] * 5 + ["InternalError"]) == UNSURE_PAUSES[0]


def test_types_are_ordered_by_price_and_unknown_ones_come_last_as_given() -> None:
    prices = {"x": None, "b": 2.0, "y": None, "a": 1.0, "c": 2.0}
    assert list(by_price(prices)) == ["a", "b", "c", "x", "y"]


def test_a_divided_plan_keeps_the_number_requested() -> None:
    plan = divided(Plan(2, 8, 60.0, at_least=3), 5)
    assert (plan.instances, plan.asked) == (5, 8)
    assert divided(plan, 4).asked == 8


def test_the_worst_case_is_that_of_the_most_expensive_type() -> None:
    plan = Plan(2, 2, 60.0, usd_per_hour=1.0, others={"b": 3.0})
    assert plan.worst_case_usd == pytest.approx(2 * plan.lifetime * 3.0 / 3600)
    assert Plan(2, 2, 60.0, usd_per_hour=1.0, others={"b": None}).worst_case_usd is None
