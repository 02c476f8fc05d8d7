"""Which instance type `--instance-type auto` takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cnd.errors import UsageError
from cnd.model.catalog import OFFERS, Price, has_gpu
from cnd.model.plan import BOOT_ALLOWANCE, GPU_BOOT_ALLOWANCE, Plan
from cnd.planning.choice import Choice, cheaper, chosen, is_auto, ranked, taken
from cnd.planning.forecast import Forecast, Machine, Request
from cnd.planning.instance_types import usual_boot

TABLE = [
    Machine(o.type, o.vcpus, o.rate, o.price, usual_boot(o.type))
    for o in OFFERS.values()
]
LARGE = 2**60


def asked(
    d: int,
    *,
    n: int | None = None,
    t: float = 200.0,
    confidence: float | None = None,
    budget: float | None = None,
    name: str = "auto",
) -> Request:
    plan = Plan(d, n or 1, t, nonces=LARGE, instance_type=name, image="auto")
    return Request(plan, n is not None, confidence, budget)


def choice(request: Request) -> Choice:
    return chosen(ranked(request, TABLE), lambda fleet: "")


def names(fleets: list[Forecast]) -> list[str]:
    return [fleet.plan.instance_type for fleet in fleets]


def test_a_short_search_takes_a_core_and_a_long_one_gpus() -> None:
    short, long = choice(asked(5)), choice(asked(10, t=600.0, confidence=0.95))
    assert not has_gpu(short.fleet.plan.instance_type)
    assert has_gpu(long.fleet.plan.instance_type)
    assert long.fleet.plan.instances > 1
    assert long.fleet.chances
    assert long.fleet.chances.found >= 0.95


def test_the_choice_costs_least_for_a_find_of_all_that_can_do_it() -> None:
    fleets = ranked(asked(9, n=2), TABLE)
    costs = [
        (fleet.expected_usd or 0.0) / fleet.chances.found
        for fleet in fleets
        if fleet.chances
    ]
    assert costs == sorted(costs)
    assert choice(asked(9, n=2)).fleet == fleets[0]


def test_a_type_without_a_rate_or_a_price_is_never_taken() -> None:
    machines = [replace(m, rate=None) for m in TABLE]
    machines += [replace(m, price=None) for m in TABLE]
    with pytest.raises(UsageError, match="no known type can do it"):
        chosen(ranked(asked(6), machines), lambda fleet: "")


def test_a_fleet_above_the_budget_is_none() -> None:
    worst = [f.plan.worst_case_usd or 0.0 for f in ranked(asked(9, n=2), TABLE)]
    budget = sorted(worst)[len(worst) // 2]
    within = ranked(asked(9, n=2, budget=budget), TABLE)
    assert len(within) == sum(each <= budget for each in worst) < len(worst)
    assert all((fleet.plan.worst_case_usd or 0.0) <= budget for fleet in within)


def test_what_does_not_fit_is_passed_over_with_its_reason() -> None:
    request = asked(9, n=1)
    first, *_ = names(ranked(request, TABLE))
    refused = chosen(
        ranked(request, TABLE),
        lambda f: "0 of 0 vCPUs" if f.plan.instance_type == first else "",
    )
    assert refused.fleet.plan.instance_type != first
    assert refused.lines[0] == f"auto: not 1 x {first}: 0 of 0 vCPUs"
    with pytest.raises(UsageError, match="0 of 0 vCPUs"):
        chosen(ranked(request, TABLE), lambda f: "0 of 0 vCPUs")


def test_a_few_lines_say_what_was_passed_over() -> None:
    fleets = ranked(asked(9, n=1), TABLE)
    unfit = names(fleets)[:7]
    found = chosen(
        fleets, lambda f: "no" if f.plan.instance_type in unfit else ""
    ).lines
    assert [line[:9] for line in found] == ["auto: not"] * 3 + [
        "auto: nor",
        "auto take",
    ]
    assert found[3] == "auto: nor 4 more that do not fit"


def test_by_spot_prices_another_fleet_may_be_the_best() -> None:
    first, second, *_ = names(ranked(asked(9, n=1), TABLE))
    spot = {second: Price(0.0001, "spot")}
    fleets = ranked(asked(9, n=1), TABLE, spot)
    assert names(fleets)[0] == second != first
    assert fleets[0].spot == spot[second]


def test_the_runner_up_is_of_another_family_and_has_its_cost_named() -> None:
    best = choice(asked(9, n=1))
    assert best.runner_up
    families = {
        fleet.plan.instance_type.partition(".")[0]
        for fleet in (best.fleet, best.runner_up)
    }
    assert len(families) == 2
    assert f"the next, 1 x {best.runner_up.plan.instance_type}, $" in best.lines[-1]


@pytest.mark.parametrize(("d", "image"), [(5, "ubuntu"), (10, "gpu")])
def test_the_image_and_the_boot_allowance_go_with_the_type(d: int, image: str) -> None:
    request = asked(d, t=600.0, confidence=0.95)
    allowance = GPU_BOOT_ALLOWANCE if image == "gpu" else BOOT_ALLOWANCE
    decided = taken(request, choice(request), allowance)
    assert (decided.plan.image, decided.plan.boot_allowance) == (image, allowance)
    assert decided.plan.instances == choice(request).fleet.plan.instances
    assert decided.given


def test_auto_excludes_other_types_and_a_worker_of_ones_own() -> None:
    assert is_auto(asked(6))
    assert not is_auto(asked(6, name="t3.micro"))
    several = replace(asked(6).plan, others={"t3.micro": None})
    with pytest.raises(UsageError, match="exclude each other"):
        is_auto(Request(several, False))
    script = replace(asked(6).plan, difficulty=0, script="mine.py")
    with pytest.raises(UsageError, match="does not go with --worker"):
        is_auto(Request(script, False))


def test_a_cheaper_type_is_pointed_out_unless_the_account_is_in_the_free_tier() -> None:
    default = asked(8, n=1, name="t3.micro")
    known = cheaper(default, TABLE, free_tier=False)
    unknown = cheaper(default, TABLE, free_tier=None)
    assert known.startswith("t3.micro $")
    assert known.endswith("--instance-type auto takes what is cheapest")
    assert "unless" not in known
    assert "(unless this account is in the free tier)" in unknown
    assert cheaper(default, TABLE, free_tier=True) == ""
    best = names(ranked(default, TABLE))[0]
    assert cheaper(asked(8, n=1, name=best), TABLE, free_tier=False) == ""
