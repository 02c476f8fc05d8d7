"""A function that takes a dataclass of options becomes a command of Invoke."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest
from invoke.exceptions import Exit
from invoke.parser.context import ParserContext
from invoke.parser.parser import Parser

from cnd.cli.option_fields import Options, flag, option, text, words_after_dashes
from cnd.cli.parsers import choice, optional, whole
from cnd.cli.task import task
from cnd.errors import HostError, UsageError


@dataclass(frozen=True)
class Counting(Options):
    name: str = text(positional=True, help="a name")
    example = "for example: count 3"
    count: int = option("c", parse=whole(1, 9), default="3", help="how many")
    most: int | None = option(parse=optional(whole(1, 9)), help="at most")
    quietly: bool = flag(help="print less")
    in_color: bool = flag(default=True, help="print without colors")


@dataclass(frozen=True)
class Measuring(Options):
    what: str = option(
        parse=choice("length", "weight"), positional=True, help="which of both"
    )
    times: int = option(parse=whole(1, 9), default="1", help="how often")


@dataclass(frozen=True)
class Length(Measuring):
    unit: str = text(default="m", help="length, weight: the unit")


@dataclass(frozen=True)
class Weight(Measuring):
    example = "for example: measure weight --gross"
    unit: str = text(default="kg", help="length, weight: the unit")
    gross: bool = flag(help="weight: all of it")


@dataclass(frozen=True)
class Passing(Options):
    words: tuple[str, ...] = words_after_dashes()


seen: list[Options] = []


@task(Counting)
def count(c: Any, options: Counting) -> None:
    """Count."""
    seen.append(options)
    if options.name == "lost":
        raise HostError("i-1", "lost")


@task(Measuring, kinds={"length": Length, "weight": Weight})
def measure(c: Any, options: Measuring) -> None:
    """Measure."""
    seen.append(options)


@task(Passing)
def hand_on(c: Any, options: Passing) -> None:
    """Hand words on."""
    seen.append(options)


def run(command: Any, *words: str) -> Options:
    """Call a command as Invoke does; return the options that its function took."""
    contexts = [ParserContext(command.name, args=command.get_arguments())]
    (parsed,) = Parser(contexts=contexts).parse_argv([command.name, *words])
    command.body(None, **parsed.as_kwargs)
    return seen[-1]


def test_the_function_takes_checked_values() -> None:
    found = run(count, "ann", "--count", "5", "--most", "7", "--quietly")
    assert found == Counting(name="ann", count=5, most=7, quietly=True, in_color=True)


def test_what_is_left_out_has_its_default() -> None:
    found = run(count)
    assert found == Counting(name="", count=3, most=None, quietly=False, in_color=True)


@pytest.mark.parametrize("spelled", ["-c", "--c", "--count"])
def test_a_letter_may_have_one_dash_or_two(spelled: str) -> None:
    found = run(count, spelled, "4", "--no-in-color")
    assert isinstance(found, Counting)
    assert (found.count, found.in_color) == (4, False)


def test_an_error_names_the_option_as_a_user_types_it() -> None:
    with pytest.raises(Exit) as caught:
        run(count, "--count", "0")
    assert caught.value.code == UsageError.exit_status
    told = "cnd: --c must be 1 to 9, not 0\nhint: for example: count 3"
    assert caught.value.message == told


def test_an_error_of_the_function_is_one_line_and_its_status() -> None:
    with pytest.raises(Exit, match="i-1: lost") as caught:
        run(count, "lost")
    assert caught.value.code == HostError.exit_status


def test_the_first_word_chooses_the_options_and_their_defaults() -> None:
    assert run(measure, "length") == Length(what="length", times=1, unit="m")
    found = run(measure, "weight", "--gross", "--times", "2")
    assert found == Weight(what="weight", times=2, unit="kg", gross=True)


def test_an_option_of_the_other_choice_is_refused_before_its_value() -> None:
    with pytest.raises(Exit) as caught:
        run(measure, "length", "--gross", "--times", "x")
    assert caught.value.message == "cnd: measure length does not take --gross"
    with pytest.raises(Exit, match="must be one of length, weight, not 'time'"):
        run(measure, "time")


def test_words_after_two_dashes_arrive_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["cnd", "hand-on", "--", "a b", "--c"])
    assert hand_on.takes_rest and not count.takes_rest
    assert run(hand_on) == Passing(words=("a b", "--c"))
    monkeypatch.setattr(sys, "argv", ["cnd", "hand-on"])
    assert run(hand_on) == Passing(words=())
