"""How the weather and the account of a local cloud are named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnd.errors import UsageError
from cnd.local import account_kinds, weather
from cnd.local.weather import HABITS, Weather


@given(st.sets(st.sampled_from(list(HABITS)), min_size=1), st.integers(0, 2**32 - 1))
def test_the_text_of_a_weather_names_the_same_weather(
    habits: set[str], seed: int
) -> None:
    found = Weather(frozenset(habits), seed)

    assert weather.parse(str(found)) == found


@pytest.mark.parametrize("text", ["", "calm"])
def test_calm_is_the_default_and_has_no_habit(text: str) -> None:
    assert weather.parse(text) == Weather()
    assert not weather.parse(text)
    assert str(Weather()) == "calm"


def test_a_missing_seed_is_drawn() -> None:
    assert len({weather.parse("aws").seed for _ in range(50)}) > 1
    assert not weather.has_seed("aws,-pages")
    assert weather.has_seed("aws:7")


def test_a_habit_is_switched_off_or_on_alone() -> None:
    assert weather.parse("aws:7").habits == HABITS.keys()
    assert weather.parse("aws:7,-pages,-errors").habits == (
        HABITS.keys() - {"pages", "errors"}
    )
    assert weather.parse("aws:7,only=pages+errors").habits == {"pages", "errors"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("storm", "begins with aws"),
        ("aws:", "not a seed"),
        ("aws:-1", "not a seed"),
        ("aws:x", "not a seed"),
        (f"aws:{2**32}", "not a seed"),
        ("aws:\u0661", "not a seed"),
        ("aws:7,pages", "neither -HABIT nor"),
        ("aws:7,only=pages,-errors", "neither -HABIT nor"),
        ("aws:7,", "neither -HABIT nor"),
        ("aws:7,-rain", "no habit 'rain', only unknown"),
        ("aws:7,only=", "no habit ''"),
        ("calm,-pages", "begins with aws"),
    ],
)
def test_a_bad_weather_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        weather.parse(text)
    assert repr(text) in str(refused.value)
    assert refused.value.hint


def test_an_account_may_be_of_several_kinds() -> None:
    found = account_kinds.parse("lab+low-quota+no-public-ip")

    assert (found.vcpus, found.instances) == (5, 9)
    assert (found.public_addresses, found.default_vpc) == (False, True)
    assert found.regions == account_kinds.LAB_REGIONS
    assert account_kinds.parse("") == account_kinds.AccountKind()


@pytest.mark.parametrize("text", ["rich", "lab+", "lab,low-quota", "+"])
def test_a_bad_kind_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(UsageError, match="imdsv2-enforced") as refused:
        account_kinds.parse(text)
    assert repr(text) in str(refused.value)
