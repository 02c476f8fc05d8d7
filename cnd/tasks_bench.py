"""The command that measures: kernels of this machine, fleets, types of instances.

One rule: no decisions here; every run is one that `start` would do, or does.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import sys
from dataclasses import asdict
from pathlib import Path

from invoke.context import Context

from cnd import arguments, contest, footprint, market, scale, scaling, settings
from cnd import bench as benches
from cnd import cloud as clouds
from cnd.cli import task
from cnd.errors import CndError, HostError, UsageError
from cnd.job import Job
from cnd.journal import Journal, state_folder
from cnd.naming import new_run
from cnd.plan import MAX_INSTANCES, Plan
from cnd.race import Ending
from cnd.result import Result
from cnd.tasks_plan import CLOUD_HELP, fit, user_key, whole_difficulty
from cnd.view import Narrator

KINDS = ("kernel", "scale", "scaling", "types")
SCALE = "for example: fab bench scale --n 8,32,128 --repeat 3"
SCALING = "for example: fab bench scaling --n 1,2,4,8 --d 5 --repeat 5"
TYPES = "for example: fab bench types --types t3.micro,c5.large"
SIZES = {"scaling": "1,2,4,8", "scale": "8,32,128,512"}
REPEATS = {"scaling": "5", "scale": "1"}
# `cnd` may not be on the path; that its code is here is certain.
START = (
    *(sys.executable, "-c", "from cnd.tasks import main; main()", "start"),
    *("--cloud", "local", "--json", "--plain", "--no-report"),
)
OUT_OF_REACH = 32  # zero hex digits that nobody finds: a search that takes its time


@task(
    positional=["what"],
    letters={"instances": "n", "difficulty": "d", "time_limit": "t"},
    help={
        "what": "kernel: the search kernels side by side on one core; scaling: the "
        "same search on fleets of N; scale: what the whole runs of fleets of N take of "
        "this machine, and push, run and fetch by CND and others; types: the rate and "
        "price of instance types",
        "seconds": "kernel, types: how long to measure (10)",
        "instances": "the N to compare, with commas: scaling (1,2,4,8), "
        "scale (8,32,128,512)",
        "difficulty": "scaling, scale: D, leading zero hex digits (5)",
        "repeat": "scaling (5), scale (1): how many runs with each N",
        "time_limit": "scaling, scale: T, seconds of search of each run at most (3600)",
        "types": "types: instance types, with commas",
        "beside": "scaling: a CSV file of N,SECONDS, other times to put beside",
        "rivals": "scale: leave out the others: Fabric's ThreadingGroup, GNU parallel, "
        "parallel-ssh, where they are installed",
        "chart": "scaling: a file for the chart, .svg or .png (needs matplotlib)",
        "csv": "print comma-separated values",
        "json": "print one JSON object to stdout, and nothing else",
        **CLOUD_HELP,
    },
)
def bench(
    c: Context,
    what: str,
    seconds: str = "10",
    instances: str = "",
    difficulty: str = "5",
    repeat: str = "",
    time_limit: str = "3600",
    types: str = "",
    beside: str = "",
    rivals: bool = True,
    chart: str = "",
    csv: bool = False,
    json: bool = False,
    cloud: str = "",
    region: str = "",
) -> None:
    """Measure: `fab bench kernel`, `fab bench scaling` ..."""
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
    example = SCALE if what == "scale" else SCALING
    sizes = [
        arguments.whole(n, "--n", 1, MAX_INSTANCES, example)
        for n in arguments.names(instances or SIZES[what], "--n")
    ]
    times = arguments.whole(repeat or REPEATS[what], "--repeat", 1, 1000, example)
    digits = whole_difficulty(difficulty, example)
    limit = arguments.seconds(time_limit, "--t", example)
    if what == "scale":
        _refuse(csv or region or cloud not in ("", "local"))
        footprint.require()
        plans = [Plan(digits, n, limit) for n in sorted(sizes)] * times
        _scale(plans, rivals=rivals, json=json)
        return
    type_name = settings.setting("instance_type", "", settings.sources(c.config)).value
    plans = [_plan(digits, n, limit, type_name, smallest=True) for n in sorted(sizes)]
    # In turn: what else this machine or AWS does meanwhile strikes every N alike.
    known, target = _beside(beside), _chart_file(chart)
    connected = _connected(cloud, region)
    table = _scaling(plans * times, connected, known, csv=csv, json=json)
    if target:
        _draw(table, target)


def _refuse(beyond: object) -> None:
    """Refuse options that mean nothing where the machine's own share is measured."""
    if beyond:
        message = "bench scale measures on the embedded cloud, into a table or --json"
        raise UsageError(message, hint=SCALE)


def _scale(plans: list[Plan], *, rivals: bool, json: bool) -> None:
    """Carry out `plans`, each in a process of its own, and tell what it took."""
    table = scale.rows([_measured(plan) for plan in plans])
    laps = scale.medians(_laps(plans) if rivals else [])
    if json:
        found = {"difficulty": plans[0].difficulty, "cores": os.cpu_count()}
        rows = [row.to_json() for row in table]
        print(jsonlib.dumps({**found, "rows": rows, "laps": list(map(asdict, laps))}))
        return
    print(scale.text(table, plans[0].difficulty))
    if laps:
        print(scale.laps_text(laps))


def _laps(plans: list[Plan]) -> list[scale.Lap]:
    """Let everybody do the same on fleets of the same sizes."""
    cloud = _connected("local", "")
    key = user_key("")
    laps = []
    for i, plan in enumerate(plans):
        print(f"bench: a contest on {plan.instances} hosts", file=sys.stderr)
        same = contest.contest_plan(plan.instances)
        fit(cloud, same, key)
        laps += contest.hold(cloud, same, key, first=i)
    return laps


def _measured(plan: Plan) -> scale.Run:
    """Do one run as a user does it, and look what it takes meanwhile.

    Raises HostError if it did not find a golden nonce.
    """
    print(f"bench: {plan.instances} instances", file=sys.stderr)
    before = clouds.embedded()
    spent = footprint.tree_seconds(before["pid"], footprint.processes())
    options = {"--n": plan.instances, "--d": plan.difficulty, "--t": plan.time_limit}
    words = [str(word) for pair in options.items() for word in pair]
    took = footprint.follow([*START, *words], patience=plan.lifetime)
    after, result = clouds.embedded(), jsonlib.loads(took.output)
    return scale.Run(
        instances=plan.instances,
        seconds=result["seconds"],
        processor=took.processor,
        memory=took.memory,
        threads=took.threads,
        calls=scale.calls_between(before.get("calls", {}), after.get("calls", {})),
        cloud=footprint.tree_seconds(after["pid"], footprint.processes()) - spent,
        fetched=len(os.listdir(result["logs"]["local"])),
    )


def _plan(
    difficulty: int, n: int, limit: float, name: str, *, smallest: bool = False
) -> Plan:
    return Plan(difficulty, n, limit, instance_type=name, smallest=smallest)


def _connected(cloud: str, region: str) -> clouds.Cloud:
    connected = clouds.required(clouds.connect(cloud, region, launch=True))
    print(connected.title, file=sys.stderr)
    return connected


def _beside(name: str) -> dict[int, float]:
    """Return the times of somebody else, by N."""
    if not name:
        return {}
    path = arguments.existing_file(name, "--beside")
    try:
        return scaling.others(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"--beside {name!r} is no text") from error


def _chart_file(name: str) -> Path | None:
    """Return where to draw; refuse at once what could not be written in the end."""
    if not name:
        return None
    path = Path(name).expanduser()
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"--chart must end in .svg or .png, not {name!r}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--chart {name!r}: there is no such folder")
    return path


def _draw(table: list[scaling.Row], path: Path) -> None:
    """Draw the chart; what fails there costs the chart, not the figures."""
    try:
        from cnd import scaling_chart  # takes a second, and may not be installed

        scaling_chart.draw(table, path)
        told = f"the chart is in {path}"
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        told = "no chart: it needs matplotlib (pip install 'cnd[report]')"
    except OSError as error:
        told = f"no chart: cannot write {path}: {error.strerror}"
    print(told, file=sys.stderr)


def _scaling(
    plans: list[Plan],
    cloud: clouds.Cloud,
    beside: dict[int, float],
    *,
    csv: bool,
    json: bool,
) -> list[scaling.Row]:
    """Carry out `plans`, compare how long they searched, tell and return it."""
    took: dict[int, list[float]] = {}
    nonce = -1
    for plan in plans:
        result = _carried_out(plan, cloud)
        if result.outcome.ending is not Ending.FOUND or not result.smallest:
            message = f"no smallest nonce was found: {result.outcome.reason}"
            raise HostError(f"run {result.run}", message)
        nonce = result.outcome.nonce or 0
        took.setdefault(plan.instances, []).append(result.seconds.search or 0.0)
    table, difficulty = scaling.rows(took, beside), plans[0].difficulty
    if json:
        found = {"difficulty": difficulty, "nonce": nonce, "cloud": cloud.name}
        limits = {"rate_cap": cloud.rate_cap, "rows": [asdict(row) for row in table]}
        print(jsonlib.dumps({**found, **limits}))
    elif csv:
        print(scaling.to_csv(table))
    else:
        print(scaling.text(table, difficulty, nonce))
    return table


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
