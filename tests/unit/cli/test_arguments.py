"""Bad input is one line that names the value, the reason and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnd.cli import arguments
from cnd.errors import UsageError

HINT = "for example: 2"


@given(st.integers(0, 2**64))
def test_every_whole_number_in_range_is_taken(value: int) -> None:
    assert arguments.whole(str(value), "--nonces", 0, 2**64, HINT) == value


@given(st.integers(0, 64))
def test_powers_are_understood(exponent: int) -> None:
    assert arguments.whole(f"2**{exponent}", "--nonces", 1, 2**64, HINT) == 2**exponent


@pytest.mark.parametrize(
    "text",
    ["", "abc", "1.5", "2**", "**2", "2**-1", "2**99999999", "0x10", "²", "9" * 5000],
)
def test_what_is_no_whole_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        arguments.whole(text, "--n", 1, 10, HINT)
    assert str(caught.value).startswith("--n must be")
    assert "\n" not in str(caught.value)
    assert caught.value.hint == HINT


@pytest.mark.parametrize("text", ["0", "-1", "11", "2**64"])
def test_a_number_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="1 to 10"):
        arguments.whole(text, "--n", 1, 10, HINT)


def test_a_large_bound_is_spelled_as_a_power() -> None:
    with pytest.raises(UsageError, match=r"1 to 2\*\*64"):
        arguments.whole("2**65", "--nonces", 1, 2**64, HINT)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "abc", "", "1e999"])
def test_seconds_are_finite_and_above_zero(text: str) -> None:
    with pytest.raises(UsageError, match="--t must be"):
        arguments.seconds(text, "--t", HINT)


def test_seconds_may_have_a_fraction() -> None:
    assert arguments.seconds("0.5", "--t", HINT) == 0.5


def test_a_file_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such-key"):
        arguments.existing_file(str(tmp_path / "no-such-key"), "--key-file")
