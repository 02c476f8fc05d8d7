"""A forecast as lines of text, for the terminal.

One rule: it computes nothing; all figures are of `cnd.planning.forecast`.
"""

from __future__ import annotations

from collections.abc import Iterator

from cnd.model.catalog import Price, Rate
from cnd.model.format import duration, number, table
from cnd.model.plan import (
    MARKETS,
)
from cnd.model.probability import success, within
from cnd.planning.forecast import Forecast, percent, usd, verdicts, worst_case


def text(
    estimate: Forecast,
    others: list[Forecast],
    local_rate: Rate | None,
    spot: Price | None = None,
    *,
    expires: bool = False,
) -> str:
    """Return the text that `plan` prints."""
    rows = [*_rows(estimate)]
    if spot:
        use = "not used" if estimate.plan.market == "on-demand" else "of the first type"
        rows.append(("spot", f"{usd(spot.usd_per_hour)}/h ({spot.source}); {use}"))
    rows += [
        ("verdict", said) for said in verdicts(estimate, local_rate, expires=expires)
    ]
    lines = [*table(rows, ("<14", "<"), gap=" ")]
    if others:
        lines += ["", *_table(others)]
    return "\n".join(lines)


def _rows(estimate: Forecast) -> Iterator[tuple[str, str]]:
    plan, machine, seen = estimate.plan, estimate.machine, estimate.chances
    yield (
        "search",
        f"difficulty {plan.difficulty}, {number(plan.nonces)} nonces, "
        f"block {plan.block[:40]!r}, at most {plan.time_limit:g} s",
    )
    if plan.chain:
        yield (
            "left",
            f"{number(plan.left)} nonces; {number(plan.tested_before)} were tested by "
            f"{len(plan.chain)} run{'s' * (len(plan.chain) > 1)}",
        )
    vcpus = f", {machine.vcpus * plan.instances} vCPUs" if machine.vcpus else ""
    types = ", else ".join(plan.types)
    least = f", {plan.at_least} at least" if plan.at_least else ""
    on = "" if plan.market == "on-demand" else f", {plan.market.replace('-', ' ')}"
    yield "fleet", f"{plan.instances}{least} x {types}{vcpus}, {plan.image}{on}"
    if machine.rate and estimate.hash_rate:
        yield (
            "hash rate",
            f"{number(estimate.hash_rate)} nonces/s ({machine.rate.source})",
        )
    else:
        yield "hash rate", "unknown"
    if seen:
        yield "found", f"{percent(seen.found)} within {plan.time_limit:g} s"
    golden = plan.left * success(plan.difficulty)
    exists = percent(within(plan.difficulty, plan.left))
    where = f"what run {plan.chain[-1]} has left" if plan.chain else "the whole space"
    yield "exists", f"{exists} in {where} ({number(golden)} golden on average)"
    if seen:
        half = f", half of all within {duration(seen.median_seconds)}"
        yield (
            "search time",
            f"{duration(seen.expected_seconds)} expected"
            f"{half if seen.median_seconds is not None else ''}",
        )
    yield "boot", f"about {duration(machine.boot)} until the first one searches"
    yield "price", _price(estimate)


def _price(estimate: Forecast) -> str:
    plan, price = estimate.plan, estimate.machine.price
    if price is None:
        return "unknown"
    if not price.usd_per_hour:
        return f"nothing: {price.source}"
    expected = ""
    if estimate.expected_usd:
        by = "" if plan.market == MARKETS[0] else " on demand (spot's price is unknown)"
        if estimate.spot:
            by = f" on spot at {usd(estimate.spot.usd_per_hour)}/h"
        expected = f"{usd(estimate.expected_usd)} expected{by}, "
    return (
        f"{expected}{usd(plan.worst_case_usd)} at worst: {worst_case(plan)} "
        f"({price.source})"
    )


def _table(others: list[Forecast]) -> Iterator[str]:
    confidence = percent(min(each.chances.found for each in others if each.chances))
    source = others[0].machine.price
    yield (
        f"on EC2, cheapest first, found with {confidence} at least "
        f"({source.source if source else ''}; rates mostly estimated):"
    )
    columns = (">6", "<", "<12", ">9", ">10", "<")
    yield from table(map(_offered, others), columns, gap=" ")


def _offered(each: Forecast) -> tuple[str, ...]:
    """Return one fleet as the cells of a row."""
    seen = each.chances
    return (
        str(each.plan.instances),
        "x",
        each.plan.instance_type,
        f"{number(each.hash_rate or 0)}/s",
        duration(seen.expected_seconds if seen else None),
        f" {usd(each.expected_usd)} expected, {usd(each.plan.worst_case_usd)} at worst",
    )
