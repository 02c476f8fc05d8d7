"""What may be expected of a search before it is bought: N, chances, times, prices.

One rule: pure functions over frozen values.  `decide` makes the `Plan` that `start`
executes, and `forecast` says of that very object what `plan` prints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cnd.errors import UsageError
from cnd.model import resumption
from cnd.model.catalog import Price, Rate, has_driver, has_gpu
from cnd.model.format import duration, number
from cnd.model.plan import (
    HASH_DIGITS,
    IMAGES,
    MARKETS,
    MAX_INSTANCES,
    MAX_NONCES,
    Plan,
    Usage,
)
from cnd.model.probability import Chances, chances, instances_for, within
from cnd.model.s3_requests import DEAREST
from cnd.model.witness import bits_for

# From RunInstances until SSH answers, for Amazon Linux 2023 and recent Ubuntu:
# 20 to 30 s, measured by many.
USUAL_BOOT = 30.0  # seconds
# Of an image with a driver for GPUs, an estimate: a large disk that is slow at first.
GPU_BOOT = 120.0  # seconds
USUAL_END = 15.0  # seconds for stop, logs and termination
USUAL_CONFIDENCE = 0.95  # at which alternatives are compared
NEARLY_ALL = 0.99  # of the chance that the space holds an answer, where that is less
LEAST_CHANCE = 0.5  # of an answer in the space, below which `verdicts` warns
USUAL_QUOTA = 32  # vCPUs that a new account may often run at once
TRIAL = 5.0  # seconds of search that measure a type whose rate is not known
SHOWN = 5  # alternatives
AUTO_IMAGE = IMAGES[-1]
PRICES = (
    "allow pricing:GetProducts (docs/aws.md); or --region us-east-1, where `fab plan` "
    "shows types whose prices come with CND"
)
LONGER = "log in again first, or less --t"  # for credentials that end too soon


@dataclass(frozen=True)
class Request:
    """What the user requests: a plan whose N may still be open."""

    plan: Plan  # its N is 1 where none was given
    given: bool  # whether N was given
    confidence: float | None = None  # in the open interval (0, 1)
    budget: float | None = None  # USD, above 0

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 < self.confidence < 1:
            message = f"--confidence must be between 0 and 1, not {self.confidence:g}"
            raise UsageError(message, hint="for example: --confidence 0.95")
        if self.budget is not None and not 0 < self.budget < math.inf:
            message = f"--budget must be more than 0 USD, not {self.budget:g}"
            raise UsageError(message, hint="for example: --budget 1.50")


@dataclass(frozen=True)
class Machine:
    """What is known of an instance type in the cloud that is to be used."""

    type: str
    vcpus: int | None = None
    rate: Rate | None = None  # of one instance
    price: Price | None = None  # of one instance
    boot: float = USUAL_BOOT  # seconds from the start until the first one searches
    at_once: float = math.inf  # instances that can run at full rate at the same time

    def fleet_rate(self, instances: int) -> float | None:
        """Return the nonces/s of so many instances, or None where it is not known."""
        if self.rate is None:
            return None
        return self.rate.nonces_per_second * min(instances, self.at_once)


@dataclass(frozen=True)
class Forecast:
    """A plan, and what may be expected of it; None is unknown."""

    plan: Plan
    machine: Machine
    hash_rate: float | None  # nonces/s of the fleet
    chances: Chances | None
    expected_usd: float | None
    spot: Price | None = None  # the base of the expected price; None: on demand

    def to_json(self) -> dict[str, Any]:
        """Return the plan with all that is expected of it."""
        rate, price = self.machine.rate, self.machine.price
        return {
            "plan": self.plan.to_json(),
            "vcpus": self.machine.vcpus,
            "hash_rate": self.hash_rate,
            "hash_rate_source": rate.source if rate else None,
            "chances": asdict(self.chances) if self.chances else None,
            "boot_seconds": self.machine.boot,
            "usd": {
                "expected": self.expected_usd,
                "worst_case": self.plan.worst_case_usd,
                "source": price.source if price else None,
                "spot_source": self.spot.source if self.spot else None,
            },
        }


def decide(request: Request, machine: Machine) -> Plan:
    """Return the plan that is to be executed.

    Raises:
        UsageError: it is impossible, contradicts itself or may exceed the budget.
    """
    price = machine.price.usd_per_hour if machine.price else None
    plan = replace(request.plan, usd_per_hour=price)
    if request.confidence is not None:
        plan = replace(plan, instances=_instances(request, plan, machine))
    if request.budget is not None:
        _check_budget(plan, request.budget)
    plan = resumption.dealt(plan)
    return replace(plan, witness_bits=_witness_bits(plan, machine))


def _witness_bits(plan: Plan, machine: Machine) -> int | None:
    """Return the zero bits of a witness, or None if the workers show none."""
    if plan.script:
        return None
    rate = machine.fleet_rate(plan.instances)
    # Each piece is proved by itself, so it counts as the class of an instance.
    nonces = max(plan.instances, plan.left * plan.instances // len(plan.pieces))
    return bits_for(
        plan.difficulty,
        nonces,
        plan.instances,
        plan.time_limit,
        rate and rate / plan.instances,
    )


def trial(request: Request) -> Request:
    """Return the request for a run that measures: one instance, no find expected."""
    plan = replace(
        request.plan,
        difficulty=HASH_DIGITS,
        nonces=MAX_NONCES,
        instances=1,
        time_limit=TRIAL,
        others={},
        at_least=0,
        smallest=False,
        replace=False,
        keep=False,
        hold=False,
        work=(),
        known=None,
    )
    return Request(plan, True, budget=request.budget)


def trial_cost(tried: Plan, seconds: float, known: float | None) -> float | None:
    """Return the cost of a trial that took `seconds`, in USD, as a budget counts it.

    Args:
        known: what it cost in USD, if that is known; the cost of a spot instance is
            never certain, so its price on demand counts.
    """
    return known if tried.market == MARKETS[0] else tried.usd([Usage(seconds)])


def charged(request: Request, spent: float | None) -> Request:
    """Return `request` with what is left of its budget after `spent` USD."""
    if request.budget is None or not spent:
        return request
    return replace(request, budget=request.budget - spent)


def _instances(request: Request, plan: Plan, machine: Machine) -> int:
    """Return the N that reaches the confidence; an N that was given must do so."""
    confidence, rate = request.confidence or 0.0, machine.rate
    if rate is None:
        message = f"--confidence: the hash rate of {machine.type} is not known"
        hint = "`fab start` without --n tries one instance first; or say --n alone"
        raise UsageError(message, hint=hint)
    if within(plan.difficulty, plan.left) < confidence:
        raise UsageError(_no_such_nonce(plan), hint="a larger --nonces, or a smaller D")
    speed = rate.nonces_per_second
    search = (plan.difficulty, plan.left)
    wanted = instances_for(*search, speed, plan.time_limit, confidence) or MAX_INSTANCES
    most = min(MAX_INSTANCES, plan.left)
    n = plan.instances if request.given else min(wanted, most)
    found = _chances(plan, machine.fleet_rate(n) or speed).found
    if found >= confidence:
        return n
    chance = f"with {n} x {machine.type} the chance is {percent(found)}"
    if request.given and wanted <= min(most, machine.at_once):
        hint = f"--n {wanted} reaches {percent(confidence)}; or leave out --n"
        raise UsageError(f"--n contradicts --confidence: {chance}", hint=hint)
    hint = "more time (--t), a smaller --d, or a faster --instance-type"
    raise UsageError(f"impossible within {plan.time_limit:g} s: {chance}", hint=hint)


def _no_such_nonce(plan: Plan) -> str:
    chance = percent(within(plan.difficulty, plan.left))
    return (
        f"impossible: even all {plan.left} nonces hold a golden one of "
        f"difficulty {plan.difficulty} with a chance of {chance}"
    )


def _check_budget(plan: Plan, budget: float) -> None:
    worst = plan.worst_case_usd
    if worst is None:
        message = f"--budget cannot be guaranteed: {_unpriced(plan)}"
        raise UsageError(message, hint=f"{PRICES}; or leave out --budget")
    if worst > budget:
        message = f"the worst case, {usd(worst)}, exceeds the budget of {usd(budget)}"
        way = "less --t, or fewer instances (--n)"
        if plan.fleet_of:
            way = "a larger --budget, or `fab scram` ends the fleet now"
        hint = f"it is {worst_case(plan)}: {way}"
        raise UsageError(message, hint=hint)


def _unpriced(plan: Plan) -> str:
    return f"the price of {' or '.join(plan.types)} is not known in this region"


def worst_case(plan: Plan) -> str:
    """Return how the worst case of a plan is computed, without its source."""
    each = f"{usd(plan.max_usd_per_hour)}/h"
    if plan.requests_usd_per_hour:
        more = DEAREST * plan.requests_usd_per_hour
        each = f"({each} and {usd(more)}/h of requests to S3)"
    most = max(plan.instances, plan.fleet_size)
    return f"{most} x {plan.lifetime:.0f} s x {each}"


def check_budget(plans: Sequence[Plan], budget: float | None) -> None:
    """Refuse several runs whose worst cases together may cost more than `budget` USD.

    Raises UsageError.
    """
    if budget is None:
        return
    for plan in plans:
        _check_budget(plan, budget)
    worst = sum(plan.worst_case_usd or 0.0 for plan in plans)
    if worst > budget:
        message = (
            f"the worst case of {len(plans)} runs, {usd(worst)}, exceeds the budget of "
            f"{usd(budget)}"
        )
        raise UsageError(message, hint="fewer of them (--repeat), less --t, fewer --n")


def forecast(plan: Plan, machine: Machine, spot: Price | None = None) -> Forecast:
    """Return what may be expected of `plan`.

    Args:
        spot: what an instance costs on spot.  The worst case is computed with the price
            on demand, which the spot price may reach, but does not exceed.
    """
    rate = machine.fleet_rate(plan.instances)
    seen = _chances(plan, rate) if rate else None
    expected = None
    if seen:
        life = machine.boot + seen.expected_seconds + USUAL_END
        paid = replace(plan, usd_per_hour=spot.usd_per_hour) if spot else plan
        expected = paid.usd([Usage(life)] * plan.instances)
    return Forecast(plan, machine, rate, seen, expected, spot)


def _chances(plan: Plan, rate: float) -> Chances:
    return chances(plan.difficulty, plan.left, rate, plan.time_limit)


def alternatives(request: Request, machines: Iterable[Machine]) -> list[Forecast]:
    """Return the cheapest fleets for the same search, one of each instance family.

    Both kinds are among them, with and without GPUs, if both can do it.
    """
    exists = within(request.plan.difficulty, request.plan.left)
    if exists < LEAST_CHANCE:
        return []
    confidence = request.confidence or min(USUAL_CONFIDENCE, NEARLY_ALL * exists)
    found = []
    for machine in machines:
        base = replace(
            request.plan, instances=1, instance_type=machine.type, others={}, at_least=0
        )
        try:
            plan = decide(Request(base, False, confidence), machine)
        except UsageError:
            continue  # impossible with this type
        if plan.usd_per_hour:
            found.append(forecast(plan, machine))
    found.sort(key=lambda each: (each.expected_usd, each.plan.instances))
    families: dict[str, Forecast] = {}
    for each in found:
        families.setdefault(each.machine.type.partition(".")[0], each)
    best, rest = list(families.values())[:SHOWN], list(families.values())[SHOWN:]
    kinds = {has_gpu(each.machine.type) for each in best}
    other = [each for each in rest if has_gpu(each.machine.type) not in kinds]
    return [*best[: SHOWN - 1], *(other or best[SHOWN - 1 :])[:1]]


def verdicts(
    estimate: Forecast, local_rate: Rate | None, *, expires: bool = False
) -> Iterator[str]:
    """Yield advice and warnings about the plan.

    Args:
        expires: whether the credentials are known to end before the instances may.
    """
    plan, seen = estimate.plan, estimate.chances
    if expires:
        yield (
            f"the credentials end within the {plan.lifetime:.0f} s that the run may "
            f"take; then {outlived(plan)}: {LONGER}"
        )
    if plan.usd_per_hour is None:
        yield f"{_unpriced(plan)}: {PRICES}"
    if idle := _without_driver(plan):
        yield (
            f"the image has no driver for the GPUs of {' or '.join(idle)}: their cores "
            "alone search; --image ami-... takes an image of your own"
        )
    exists = within(plan.difficulty, plan.left)
    if exists < LEAST_CHANCE:
        yield _no_such_nonce(plan)
    if local_rate and (alone := _alone(plan, estimate, local_rate)):
        yield alone
    if seen is None:
        yield (
            f"the hash rate of {plan.instance_type} is not known: a first run with "
            "--n 1 measures it"
        )
        return
    if seen.found < LEAST_CHANCE <= exists:
        yield f"too little time: it is found with a chance of {percent(seen.found)}"
    boot = estimate.machine.boot
    if plan.instances > 1 and seen.expected_seconds * plan.instances < boot / 4:
        yield (
            "one instance would do: its search is shorter than its boot "
            f"({duration(seen.expected_seconds * plan.instances)})"
        )
    vcpus = (estimate.machine.vcpus or 0) * plan.instances
    if plan.usd_per_hour and vcpus > USUAL_QUOTA:
        yield (
            f"{vcpus} vCPUs: a new account may often run {USUAL_QUOTA} at once; "
            "`fab doctor` shows the quota"
        )


def _without_driver(plan: Plan) -> list[str]:
    """Return the types whose GPUs the image of a plan is known not to support."""
    if plan.image.startswith("ami-"):
        return []
    drives = plan.image in ("gpu", AUTO_IMAGE)
    types = [name for name in plan.types if has_gpu(name)]
    return [name for name in types if not (drives and has_driver(name))]


def outlived(plan: Plan) -> str:
    """Return what is lost where the credentials end before the instances of a plan."""
    if plan.without_ssh:
        return "the instances get no more orders, and their reports and logs are lost"
    return (
        "CND can neither terminate nor upload logs before a new login, and what an "
        "orphan leaves in S3 is lost; each instance still ends by its timer"
    )


def _alone(plan: Plan, estimate: Forecast, local_rate: Rate) -> str:
    """Return advice if this machine alone is expected to be faster than the fleet."""
    alone, chances = _chances(plan, local_rate.nonces_per_second), estimate.chances
    fleet = estimate.machine.boot + (chances.expected_seconds if chances else 0)
    free = estimate.plan.usd_per_hour == 0
    if free or alone.expected_seconds > fleet:
        return ""
    if chances and alone.found < chances.found - 0.01:
        return ""
    return (
        f"this machine alone does it in {duration(alone.expected_seconds)} for "
        f"nothing: --cloud local ({number(local_rate.nonces_per_second)} nonces/s)"
    )


def to_json(
    estimate: Forecast,
    others: list[Forecast],
    local_rate: Rate | None,
    spot: Price | None,
    *,
    expires: bool = False,
) -> dict[str, Any]:
    """Return the object of `plan --json`."""
    return {
        **estimate.to_json(),
        "verdicts": list(verdicts(estimate, local_rate, expires=expires)),
        "spot": asdict(spot) if spot else None,
        "this_machine": local_rate.nonces_per_second if local_rate else None,
        "alternatives": [other.to_json() for other in others],
    }


# --- as text


def percent(chance: float) -> str:
    """Return a chance as text; one below certainty is never rounded to 100 %."""
    if 0 < chance < 0.0001:
        return f"1 in {1 / chance:.2g}"
    if 0.9999 < chance < 1:
        return "over 99.99 %"
    return f"{100 * chance:.4g} %"


def usd(amount: float | None) -> str:
    """Return an amount of money with as many digits as it needs."""
    if amount is None:
        return "unknown"
    return f"${amount:.2f}" if amount >= 10 else f"${amount:.4f}"
