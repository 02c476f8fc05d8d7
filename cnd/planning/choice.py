"""Which instance type to take for a search: what `--instance-type auto` means.

One rule: pure functions over what is known.  Fleets are compared by what they are
expected to cost for each find to be expected: their boot, their search and the minimum
of 60 s are in it.  A type whose rate or price is not known is never taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from cnd.errors import UsageError
from cnd.model.catalog import Price, image_of_all
from cnd.planning.forecast import (
    Forecast,
    Machine,
    Request,
    decide,
    forecast,
    percent,
    usd,
)

AUTO = "auto"  # the name that stands for the best type
MOST_LOOKED_AT = 40  # fleets, the best first: each look takes calls of the cloud
MOST_REASONS = 3  # lines of what was passed over
NOTABLE = 0.9  # of the default's cost; a smaller saving is not worth a line


@dataclass(frozen=True)
class Choice:
    """The fleet that is taken, and what else was possible."""

    fleet: Forecast
    runner_up: Forecast | None  # of another family
    passed_over: Sequence[str] = ()  # better ones that do not fit, and why

    @property
    def lines(self) -> list[str]:
        """What to tell the user."""
        found = self.fleet.chances.found if self.fleet.chances else 0.0
        others = "nothing else fits"
        if self.runner_up:
            others = f"the next, {_fleet(self.runner_up)}, {_cost(self.runner_up)}"
        taken = f"auto takes {_fleet(self.fleet)}: {_cost(self.fleet)}"
        line = f"{taken}, found with {percent(found)}; {others}"
        lines = [f"auto: not {reason}" for reason in self.passed_over]
        if (more := len(lines) - MOST_REASONS) > 0:
            lines[MOST_REASONS:] = [f"auto: nor {more} more that do not fit"]
        return [*lines, line]


def is_auto(request: Request) -> bool:
    """Whether the instance type of a request is still to be chosen.

    Raises:
        UsageError: it is asked for together with what excludes it.
    """
    plan = request.plan
    if AUTO not in plan.types:
        return False
    if plan.others:
        message = "--instance-type auto and other types exclude each other"
        raise UsageError(message, hint="name the types, or say auto alone")
    if plan.script:
        message = "--instance-type auto does not go with --worker"
        raise UsageError(message, hint="the rate of your own worker is not known")
    return True


def ranked(
    request: Request,
    machines: Iterable[Machine],
    spot: Mapping[str, Price] = MappingProxyType({}),
) -> list[Forecast]:
    """Return the fleets that can do what is asked for, the best first.

    Args:
        spot: what an instance costs now on spot, by type, as far as it is known.
    """
    found = []
    for machine in machines:
        plan = replace(request.plan, instance_type=machine.type, others={})
        try:
            decided = decide(replace(request, plan=plan), machine)
            fleet = forecast(decided, machine, spot.get(machine.type))
        except UsageError:
            continue  # impossible with this type, or above the budget
        if fleet.expected_usd and fleet.chances and fleet.chances.found > 0:
            found.append(fleet)
    return sorted(found, key=_usd_a_find)


def chosen(fleets: Sequence[Forecast], unfit: Callable[[Forecast], str]) -> Choice:
    """Return the first fleet that fits, and the next one of another family.

    Args:
        fleets: the best first.
        unfit: returns why a fleet cannot be launched; "" if it can.

    Raises:
        UsageError: none of them fits.
    """
    fit: list[Forecast] = []
    passed_over: list[str] = []
    for fleet in fleets[:MOST_LOOKED_AT]:
        if fit and _family(fleet) == _family(fit[0]):
            continue
        reason = unfit(fleet)
        if not reason:
            fit.append(fleet)
        elif not fit:
            passed_over.append(f"{_fleet(fleet)}: {reason}")
        if len(fit) == 2:
            break
    if not fit:
        why = f": {passed_over[0]}" if passed_over else ""
        message = f"--instance-type auto: no known type can do it{why}"
        hint = "more time (--t), a smaller --d, a larger --budget, or name a type"
        raise UsageError(message, hint=hint)
    runner_up = fit[1] if len(fit) > 1 else None
    return Choice(fit[0], runner_up, tuple(passed_over))


def taken(request: Request, choice: Choice, boot_allowance: float) -> Request:
    """Return the request with the type and the N that were chosen.

    `boot_allowance`: the seconds that an instance of the type may take to boot.
    """
    plan, name = request.plan, choice.fleet.plan.instance_type
    decided = replace(
        plan,
        instances=choice.fleet.plan.instances,
        instance_type=name,
        image=image_of_all(plan.image, [name]),
        boot_allowance=max(plan.boot_allowance, boot_allowance),
    )
    return replace(request, plan=decided, given=True, confidence=None)


def cheaper(
    request: Request, machines: Sequence[Machine], *, free_tier: bool | None
) -> str:
    """Return a line if another type is cheaper than that of a request; else "".

    Args:
        free_tier: whether the account is in the free tier; None: it is not known.
    """
    name = request.plan.instance_type
    fleets = ranked(request, machines)
    mine = next((each for each in fleets if each.plan.instance_type == name), None)
    if free_tier or not fleets:
        return ""
    best = fleets[0]
    if mine and _usd_a_find(best) > NOTABLE * _usd_a_find(mine):
        return ""
    unless = " (unless this account is in the free tier)" if free_tier is None else ""
    cost = _cost(mine) if mine else "cannot do it"
    line = f"{name} {cost}{unless}, {_fleet(best)} {_cost(best)}"
    return f"{line}: --instance-type auto takes what is cheapest"


def _usd_a_find(fleet: Forecast) -> float:
    assert fleet.expected_usd and fleet.chances
    return fleet.expected_usd / fleet.chances.found


def _family(fleet: Forecast) -> str:
    return fleet.plan.instance_type.partition(".")[0]


def _fleet(fleet: Forecast) -> str:
    return f"{fleet.plan.instances} x {fleet.plan.instance_type}"


def _cost(fleet: Forecast) -> str:
    return f"{usd(fleet.expected_usd)} expected"
