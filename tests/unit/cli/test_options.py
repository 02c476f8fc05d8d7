"""The option table is complete, and means what a `Plan` means by the same names."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest

from cnd.cli import options, options_bench
from cnd.cli.option_fields import Option, Options, options_of, read
from cnd.cli.request import NOT_OPTIONS, request, start_request
from cnd.errors import UsageError
from cnd.model.plan import Plan

COMMANDS = [
    kind
    for module in (options, options_bench)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, Options) and kind is not Options
    if kind.__module__ == module.__name__ and not name.startswith("_")
]
# What a user has to give, besides the name of the command.
NEEDED = {"nonce": "116", "action": "up", "what": "kernel", "types": "t3.micro"}


def named(options: dict[str, Option]) -> dict[str, Option]:
    return {name: each for name, each in options.items() if not each.is_rest}


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_option_has_a_help_and_a_name_of_its_own(kind: type[Options]) -> None:
    found = named(options_of(kind))
    assert all(each.help for each in found.values())
    letters = [each.letter for each in found.values() if each.letter]
    assert len({*letters, *found}) == len(letters) + len(found)


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_default_is_a_value_of_its_field(kind: type[Options]) -> None:
    made = read(kind, NEEDED)
    for name, hint in get_type_hints(kind).items():
        if name in options_of(kind):
            allowed = get_args(hint) if type(None) in get_args(hint) else (hint,)
            plain = tuple(getattr(each, "__origin__", each) for each in allowed)
            assert isinstance(getattr(made, name), plain), name


@pytest.mark.parametrize("kind", [options.StartOptions, options.DoctorOptions])
def test_an_option_named_as_a_field_of_a_plan_has_its_type(kind: type[Options]) -> None:
    of_plan, of_options = get_type_hints(Plan), get_type_hints(kind)
    # `request` makes these of options that may be left out, or of a list.
    made = {"difficulty", "instances", "at_least", "instance_type"}
    same = options_of(kind).keys() & of_plan.keys() - made - NOT_OPTIONS
    assert {"image", "time_limit"} < same
    assert {n: of_options[n] for n in same} == {n: of_plan[n] for n in same}


def test_what_is_left_out_is_what_a_plan_takes_itself() -> None:
    asked = request(read(options.PlanOptions, {"difficulty": "2"}))
    assert asked.plan == Plan(difficulty=2, instances=1, time_limit=200)
    assert (asked.given, asked.confidence, asked.budget) == (False, None, None)


def test_plan_and_start_ask_for_the_same_run() -> None:
    texts: dict[str, object] = {"difficulty": "3", "instances": "4", "at_least": "2"}
    texts |= {"boot": "60", "instance_type": "t3.micro, c5.large", "spot": True}
    planned = request(read(options.PlanOptions, texts))
    assert start_request(read(options.StartOptions, texts)) == planned
    plan = planned.plan
    assert (plan.instances, plan.at_least, plan.boot_allowance) == (4, 2, 60)
    assert plan.types == ("t3.micro", "c5.large")
    assert (plan.market, plan.spot) == ("spot", {})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "--d, the difficulty, is missing"),
        ({"difficulty": "2", "at_least": "1"}, "--at-least is given without N"),
        ({"difficulty": "2", "instances": "2", "at_least": "3"}, "1 to 2, not 3"),
        ({"difficulty": "2", "spot": True, "spot_or_on_demand": True}, "exclude each"),
        ({"difficulty": "2", "words": ("x",)}, "no worker that takes these words"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    texts: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        start_request(read(options.StartOptions, texts))


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_option_is_a_field_and_every_field_an_option(kind: type[Options]) -> None:
    assert [each.name for each in fields(kind)] == [*options_of(kind)]  # type: ignore[arg-type]
