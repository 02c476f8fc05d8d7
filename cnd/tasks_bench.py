"""The command that measures: kernels of this machine, fleets, types of instances.

One rule: no decisions here; every run is one that `start` would do.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import sys
from dataclasses import asdict

from invoke.context import Context

from cnd import arguments, market, scaling, settings
from cnd import bench as benches
from cnd import cloud as clouds
from cnd.cli import task
from cnd.errors import CndError, HostError
from cnd.job import Job, new_run
from cnd.journal import Journal, state_folder
from cnd.plan import MAX_INSTANCES, Plan
from cnd.race import Ending
from cnd.result import Result
from cnd.tasks_plan import CLOUD_HELP, fit, user_key, whole_difficulty
from cnd.view import Narrator

KINDS = ("kernel", "scaling", "types")
SCALING = "for example: fab bench scaling --n 1,2,4,8 --d 5 --repeat 5"
TYPES = "for example: fab bench types --types t3.micro,c5.large"
OUT_OF_REACH = 32  # zero hex digits that nobody finds: a search that takes its time


@task(
    positional=["what"],
    letters={"instances": "n", "difficulty": "d", "time_limit": "t"},
    help={
        "what": "kernel: the search kernels side by side on one core; scaling: the "
        "same search on fleets of N; types: the rate and price of instance types",
        "seconds": "kernel, types: how long to measure (10)",
        "instances": "scaling: the N to compare, with commas (1,2,4,8)",
        "difficulty": "scaling: D, leading zero hex digits (5)",
        "repeat": "scaling: how many runs with each N (5)",
        "time_limit": "scaling: T, seconds of search of each run at most (3600)",
        "types": "types: instance types, with commas",
        "csv": "print comma-separated values",
        "json": "print one JSON object to stdout, and nothing else",
        **CLOUD_HELP,
    },
)
def bench(
    c: Context,
    what: str,
    seconds: str = "10",
    instances: str = "1,2,4,8",
    difficulty: str = "5",
    repeat: str = "5",
    time_limit: str = "3600",
    types: str = "",
    csv: bool = False,
    json: bool = False,
    cloud: str = "",
    region: str = "",
) -> None:
    """Measure: `fab bench kernel`, `fab bench scaling`, `fab bench types`."""
    arguments.choice(what, "fab bench", KINDS)
    if what == "kernel":
        limit = arguments.seconds(seconds, "--seconds", "for example: fab bench kernel")
        measured = benches.kernel_bench(limit)
        print(measured.to_json() if json else measured.text())
        return
    if what == "types":
        limit = arguments.seconds(seconds, "--seconds", TYPES)
        names = arguments.names(types, "--types")
        plans = [_plan(OUT_OF_REACH, 1, limit, name) for name in names]
        _types(plans, _connected(cloud, region), csv=csv, json=json)
        return
    sizes = [
        arguments.whole(n, "--n", 1, MAX_INSTANCES, SCALING)
        for n in arguments.names(instances, "--n")
    ]
    digits = whole_difficulty(difficulty, SCALING)
    limit = arguments.seconds(time_limit, "--t", SCALING)
    type_name = settings.setting("instance_type", "", settings.sources(c.config)).value
    plans = [_plan(digits, n, limit, type_name, smallest=True) for n in sorted(sizes)]
    # In turn: what else this machine or AWS does meanwhile strikes every N alike.
    times = arguments.whole(repeat, "--repeat", 1, 1000, SCALING)
    _scaling(plans * times, _connected(cloud, region), csv=csv, json=json)


def _plan(
    difficulty: int, n: int, limit: float, name: str, *, smallest: bool = False
) -> Plan:
    return Plan(difficulty, n, limit, instance_type=name, smallest=smallest)


def _connected(cloud: str, region: str) -> clouds.Cloud:
    connected = clouds.required(clouds.connect(cloud, region, launch=True))
    print(connected.title, file=sys.stderr)
    return connected


def _scaling(plans: list[Plan], cloud: clouds.Cloud, *, csv: bool, json: bool) -> None:
    """Carry out `plans`, and compare how long they searched."""
    took: dict[int, list[float]] = {}
    nonce = -1
    for plan in plans:
        result = _carried_out(plan, cloud)
        if result.outcome.ending is not Ending.FOUND or not result.smallest:
            message = f"no smallest nonce was found: {result.outcome.reason}"
            raise HostError(f"run {result.run}", message)
        nonce = result.outcome.nonce or 0
        took.setdefault(plan.instances, []).append(result.seconds.search or 0.0)
    table, difficulty = scaling.rows(took), plans[0].difficulty
    if json:
        found = {"difficulty": difficulty, "nonce": nonce, "cloud": cloud.name}
        limits = {"rate_cap": cloud.rate_cap, "rows": [asdict(row) for row in table]}
        print(jsonlib.dumps({**found, **limits}))
    elif csv:
        print(scaling.to_csv(table))
    else:
        print(scaling.text(table, difficulty, nonce))


def _types(plans: list[Plan], cloud: clouds.Cloud, *, csv: bool, json: bool) -> None:
    """Carry out `plans`, each until its time is over, and compare rates and prices."""
    found = []
    for plan in plans:
        price = market.machine(cloud, state_folder(), plan).price
        result = _carried_out(plan, cloud)
        if not result.hash_rate:
            message = f"nothing was measured: {result.outcome.reason}"
            raise HostError(f"run {result.run}", message)
        usd = price.usd_per_hour if price else None
        rate, kernel = result.hash_rate, result.kernel or ""
        found.append(scaling.Worth(plan.instance_type, rate, kernel, usd))
    if json:
        print(jsonlib.dumps({"types": [worth.to_json() for worth in found]}))
    elif csv:
        print(scaling.written([worth.to_json() for worth in found]))
    else:
        print(scaling.worths(found))


def _carried_out(plan: Plan, cloud: clouds.Cloud) -> Result:
    """Do one run, as `start` does, without a report of its own.

    Raises:
        CndError: what the run ended with, or an interruption: no further run begins.
    """
    key = user_key("")
    fit(cloud, plan, key)
    journal = Journal(new_run())
    journal.create()
    with journal.followed(), contextlib.closing(Narrator(plan)) as shown:
        result = Job(plan, cloud, journal, view=shown).execute(key)
    if result.outcome.ending in (Ending.STOPPED, Ending.INTERRUPTED) or result.leaked:
        raise CndError(f"run {result.run} ended: {result.outcome.reason}")
    return result
