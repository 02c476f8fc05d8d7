"""The decisions of the weather: within their bounds, whatever the seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnd.local.api.weather import habits
from cnd.local.api.weather.buckets import RESOURCES, Bucket, Limit, Throttle
from cnd.local.api.weather.resources import Resources

SEEDS = st.integers(0, 2**32 - 1)
NUMBERS = st.integers(0, 10**6)
KINDS = st.sampled_from(["instance", "group", "key", "template", "bucket", "queue"])


@given(SEEDS, KINDS, NUMBERS, NUMBERS, st.floats(0, 10))
def test_a_resource_is_always_known_after_five_seconds(
    seed: int, kind: str, number: int, look: int, age: float
) -> None:
    if habits.is_unknown(seed, kind, number, look, age):
        assert age < habits.UNKNOWN_SECONDS
        assert kind != "queue" or age < habits.QUEUE_SECONDS


@given(SEEDS, NUMBERS)
def test_every_time_is_within_its_bounds(seed: int, number: int) -> None:
    def within(seconds: float, bounds: tuple[float, float]) -> bool:
        return seconds == 0 or bounds[0] <= seconds <= bounds[1]

    assert within(habits.public_address_after(seed, number), habits.ADDRESS_SECONDS)
    assert within(habits.private_address_after(seed, number), habits.PRIVATE_SECONDS)
    assert within(habits.shutdown_seconds(seed, number), habits.SHUTDOWN_SECONDS)
    assert within(habits.loses_tags_after(seed, number), habits.TAGS_SECONDS)
    assert within(habits.listed_for(seed, number), habits.LISTED_SECONDS)
    assert within(habits.queue_end_seconds(seed, number), habits.QUEUE_END_SECONDS)
    assert within(habits.bucket_seconds(seed, number), habits.BUCKET_SECONDS)
    late = habits.late_by(seed, number, is_launch=True)
    assert within(late, habits.LATE_SECONDS)
    assert not habits.is_busy(seed, number, habits.BUSY_SECONDS[1])
    assert 1 <= (habits.page_size(seed, number) or 1) <= habits.MOST_OF_PAGE


@given(SEEDS, NUMBERS)
def test_a_seed_decides_the_same_each_time(seed: int, number: int) -> None:
    assert habits.draw(seed, "a", number) == habits.draw(seed, "a", number)
    assert 0 <= habits.draw(seed, "a", number) < 1


def test_a_day_of_calls_meets_each_habit_as_often_as_it_says() -> None:
    calls = 20_000
    errors = sum(bool(habits.error(7, call)) for call in range(calls))
    slow = sum(bool(habits.shutdown_seconds(7, n)) for n in range(calls))

    assert 0.8 < errors / calls / habits.ERRORS < 1.2
    assert 0.8 < slow / calls / habits.SLOW_SHUTDOWNS < 1.2


REQUESTS = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 40)), max_size=60)


@given(st.integers(1, 50), st.floats(0.1, 20), REQUESTS)
def test_a_bucket_lets_no_more_through_than_its_burst_and_its_rate(
    most: int, rate: float, asked: list[tuple[float, int]]
) -> None:
    now, passed = 0.0, 0
    bucket = Bucket.full(Limit(most, rate), now)
    for pause, count in asked:
        now += pause
        bucket, passes = bucket.take(count, now)
        passed += count if passes else 0
        assert passed <= most + rate * now + 1e-6
        assert 0 <= bucket.tokens <= most


def test_launches_pass_in_bursts_of_five_and_two_a_second() -> None:
    throttle, one = Throttle(), {"MaxCount": "1"}

    def launches(count: int, now: float) -> int:
        asked = (throttle.passes("eu", "RunInstances", one, now) for _ in range(count))
        return sum(asked)

    assert [launches(9, now) for now in (0.0, 1.0, 1.1, 11.0)] == [5, 2, 0, 5]
    assert throttle.passes("us", "RunInstances", one, 0.0)  # each region has its own


def test_a_thousand_instances_can_be_launched_at_once_and_no_more() -> None:
    throttle = Throttle()
    limit = RESOURCES["RunInstances"]

    def launch(count: int, now: float) -> bool:
        asked = {"MaxCount": str(count)}
        return throttle.passes("eu", "RunInstances", asked, now)

    assert launch(limit.most - 1, 0.0)
    assert not launch(2, 0.0)
    assert launch(1, 0.0)
    assert launch(20, 10.0)
    assert not launch(1, 10.0)


def test_descriptions_without_a_filter_have_a_bucket_of_their_own() -> None:
    throttle = Throttle()

    def described(asked: dict[str, str]) -> int:
        return sum(
            throttle.passes("eu", "DescribeInstances", asked, 0.0) for _ in range(200)
        )

    assert described({}) == 50
    assert described({"Filter.1.Name": "tag-key"}) == 100


@pytest.mark.parametrize(
    ("action", "burst"),
    [
        ("CreateTags", 100),
        ("CreateSecurityGroup", 50),
        ("AuthorizeSecurityGroupIngress", 50),
        ("TerminateInstances", 100),
        ("DescribeImages", 100),
        ("DescribeSecurityGroups", 50),
    ],
)
def test_each_action_has_the_burst_of_the_table_of_aws(action: str, burst: int) -> None:
    throttle = Throttle()
    passed = sum(throttle.passes("eu", action, {}, 0.0) for _ in range(200))
    assert passed == burst


def test_resources_are_counted_by_kind_and_age() -> None:
    now = [0.0]
    resources = Resources(7, clock=lambda: now[0])
    assert [resources.add("key", name) for name in "ab"] == [0, 1]
    assert resources.add("group", "a") == 0
    now[0] = 3.0
    assert resources.age("key", "a") == 3.0
    assert resources.age("key", "c") == float("inf")
    assert not resources.is_unknown("key", "c")  # the cloud itself does not know it
