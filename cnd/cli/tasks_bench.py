"""The command that measures: kernels of this machine, fleets, types of instances.

One rule: no decisions here; every run is one that `start` would do, or does.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit

from cnd.bench import kernels as benches
from cnd.bench import process_usage, run_cost, speedup, ssh_comparison
from cnd.cli import arguments, settings
from cnd.cli.program import files_of, task
from cnd.cli.tasks_plan import (
    CLOUD_HELP,
    WISH_HELP,
    fit,
    user_key,
    whole_difficulty,
    wish,
)
from cnd.cloud import connection as clouds
from cnd.errors import HostError, LeakError, UsageError
from cnd.model.plan import BOOT_ALLOWANCE, MAX_INSTANCES, Plan
from cnd.model.result import Result
from cnd.model.run_name import new_run
from cnd.model.search_state import Ending
from cnd.planning import instance_types
from cnd.planning.forecast import Request, check_budget, decide
from cnd.run.job import Job
from cnd.run.journal import Journal
from cnd.system.folders import expanded, state_folder
from cnd.transport.keys import UserKey
from cnd.view.guarded import BackgroundViewer
from cnd.view.narrator import Narrator

SCALE = "for example: fab bench scale --n 8,32,128 --repeat 3"
SCALING = "for example: fab bench scaling --n 1,2,4,8 --d 5 --repeat 5"
TYPES = "for example: fab bench types --types t3.micro,c5.large --repeat 3"
EXAMPLES = {
    "kernel": "for example: fab bench kernel",
    "scale": SCALE,
    "scaling": SCALING,
    "types": TYPES,
}
ON_A_CLOUD = (
    *("block", "image", "budget", "subnet", "ssh_from", "key_file", "cloud", "region"),
    *("chart", "csv"),
)
# Which options each bench takes, besides --json.
TAKES = {
    "kernel": ("seconds",),
    "scale": ("instances", "difficulty", "repeat", "time_limit", "rivals", "cloud"),
    "scaling": (
        *("instances", "difficulty", "repeat", "time_limit", "beside"),
        *("instance_type", *ON_A_CLOUD),
    ),
    "types": ("types", "seconds", "repeat", *ON_A_CLOUD),
}
SIZES = {"scaling": "1,2,4,8", "scale": "8,32,128,512"}
REPEATS = {"scaling": "5", "scale": "1", "types": "1"}
CORES = (
    "bench: hosts of the local cloud share this machine's {cores} cores, whatever "
    "their {what}"
)
# `cnd` may not be on the path; that its code is here is certain.  Python would look for
# it in the working folder first, whoever has put it there.
PROGRAM = (
    "import sys; sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]; "
    "from cnd.tasks import main; main()"
)
START = (
    *(sys.executable, "-c", PROGRAM, str(Path(__file__).resolve().parents[1]), "start"),
    *("--cloud", "local", "--json", "--plain", "--no-report"),
)
PLACE = ("block", "image", "subnet", "ssh_from")
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
        "repeat": "scaling (5), scale (1), types (1): how many runs of each",
        "time_limit": "scaling, scale: T, seconds of search of each run at most (3600)",
        "types": "types: instance types, with commas",
        "beside": "scaling: a CSV file of N,SECONDS to put beside, instead of the "
        "coursework report's own times",
        "rivals": "scale: leave out the others: Fabric's ThreadingGroup, GNU parallel, "
        "parallel-ssh, where they are installed",
        "chart": "scaling, types: a file for the chart, .svg or .png",
        "csv": "scaling, types: print comma-separated values",
        "json": "print one JSON object to stdout, and nothing else",
        "budget": "scaling, types: USD; refuse if all runs may cost more",
        **{name: f"scaling, types: {WISH_HELP[name]}" for name in PLACE},
        "instance_type": f"scaling: {WISH_HELP['instance_type']}",
        "key_file": "scaling, types: an SSH private key of yours; default: CND's own",
        **CLOUD_HELP,
    },
)
def bench(
    c: Context,
    what: str = "",
    seconds: str = "",
    instances: str = "",
    difficulty: str = "",
    repeat: str = "",
    time_limit: str = "",
    types: str = "",
    beside: str = "",
    rivals: bool = True,
    chart: str = "",
    csv: bool = False,
    json: bool = False,
    block: str = "",
    budget: str = "",
    instance_type: str = "",
    image: str = "",
    subnet: str = "",
    ssh_from: str = "",
    key_file: str = "",
    cloud: str = "",
    region: str = "",
) -> None:
    """Measure: `fab bench kernel`, `fab bench scaling` ..."""
    arguments.choice(what, "fab bench", tuple(TAKES))
    given: dict[str, object] = {
        **{"seconds": seconds, "instances": instances, "difficulty": difficulty},
        **{"repeat": repeat, "time_limit": time_limit, "types": types},
        **{"beside": beside, "rivals": not rivals, "chart": chart, "csv": csv},
        **{"subnet": subnet, "ssh_from": ssh_from, "key_file": key_file},
        **{"cloud": cloud},
    }
    configured = {
        **{"block": block, "budget": budget, "image": image, "region": region},
        **{"instance_type": instance_type},
    }
    files = files_of(c)
    for name, value in configured.items():  # what a file says is no demand
        given[name] = value != settings.setting(name, "", files).value
    _refuse(what, [name for name, value in given.items() if value])
    example = EXAMPLES[what]
    limit = arguments.seconds(seconds or "10", "--seconds", example)
    if what == "kernel":
        measured = benches.kernel_bench(limit)
        print(measured.to_json() if json else measured.text())
        return
    times = arguments.whole(repeat or REPEATS[what], "--repeat", 1, 1000, example)
    common: dict[str, Any] = {"block": block, "budget": budget, "image": image}
    common |= {"subnet": subnet, "ssh_from": ssh_from, "user": "", "gateway": ""}
    show = Show(csv=csv, json=json, chart=_chart_file(chart))
    if what == "types":
        wishes = [
            _asked(OUT_OF_REACH, 1, str(limit), name, **common)
            for name in arguments.names(types, "--types")
        ]
        _types(_decided(wishes * times, cloud, region, key_file), show)
        return
    sizes = sorted(
        arguments.whole(n, "--n", 1, MAX_INSTANCES, example)
        for n in arguments.names(instances or SIZES[what], "--n")
    )
    digits = whole_difficulty(difficulty or "5", example)
    longest = time_limit or "3600"
    if what == "scale":
        arguments.choice(cloud or "local", "bench scale --cloud", ("local",))
        process_usage.require()
        whole = arguments.seconds(longest, "--t", example)
        plans = [Plan(digits, n, whole) for n in sizes] * times
        _scale(plans, rivals=rivals, json=json)
        return
    wishes = [
        _asked(digits, n, longest, instance_type, smallest=True, **common)
        for n in sizes
    ]
    known = _beside(beside)
    # In turn: what else this machine or AWS does meanwhile strikes every N alike.
    _scaling(_decided(wishes * times, cloud, region, key_file), known, show)


def _refuse(what: str, given: Iterable[str]) -> None:
    """Refuse options that mean nothing to this bench."""
    letters = {"instances": "n", "difficulty": "d", "time_limit": "t"}
    for name in given:
        if name not in TAKES[what]:
            spelled = "no-rivals" if name == "rivals" else letters.get(name, name)
            message = f"bench {what} does not take --{spelled.replace('_', '-')}"
            raise UsageError(message, hint=EXAMPLES[what])


@dataclass(frozen=True)
class Show:
    """How the figures are to be told."""

    csv: bool
    json: bool
    chart: Path | None


@dataclass(frozen=True)
class Runs:
    """The runs of a bench, decided, and where they are to be done."""

    plans: list[Plan]
    cloud: clouds.Cloud
    key: UserKey


def _asked(
    difficulty: int,
    n: int,
    time_limit: str,
    instance_type: str,
    *,
    smallest: bool = False,
    **options: Any,
) -> Request:
    """Return one run as `start` would be asked for it."""
    return wish(
        **{"time_limit": time_limit, "difficulty": str(difficulty)},
        **{"instances": str(n), "instance_type": instance_type},
        **{"confidence": "", "at_least": "", "nonces": "2**32", "kernel": "auto"},
        **{"bootstrap": "auto", "address": "public", "boot": str(BOOT_ALLOWANCE)},
        **options,
        spot=False,
        spot_or_on_demand=False,
        smallest=smallest,
    )


def _decided(wishes: list[Request], cloud: str, region: str, key_file: str) -> Runs:
    """Return the runs, each decided as `start` does it.

    Raises:
        UsageError: all of them together may exceed the budget.
    """
    key = user_key(key_file)
    connected, folder = _connected(cloud, region), state_folder()
    plans = []
    for each in wishes:
        ranked = instance_types.ranked(connected, each)
        known = instance_types.machine(connected, folder, ranked.plan)
        plans.append(decide(ranked, known))
    check_budget(plans, wishes[0].budget)
    return Runs(plans, connected, key)


def _scale(plans: list[Plan], *, rivals: bool, json: bool) -> None:
    """Carry out `plans`, each in a process of its own, and tell what it took."""
    table = run_cost.rows([_measured(plan) for plan in plans])
    laps = run_cost.medians(_laps(plans) if rivals else [])
    if json:
        found = {"difficulty": plans[0].difficulty, "cores": os.cpu_count()}
        rows = [row.to_json() for row in table]
        print(jsonlib.dumps({**found, "rows": rows, "laps": list(map(asdict, laps))}))
        return
    print(run_cost.text(table, plans[0].difficulty))
    if laps:
        print(run_cost.trials_text(laps))


def _laps(plans: list[Plan]) -> list[run_cost.Trial]:
    """Let everybody do the same on fleets of the same sizes."""
    cloud = _connected("local", "")
    key = user_key("")
    laps = []
    for i, plan in enumerate(plans):
        print(f"bench: a contest on {plan.instances} hosts", file=sys.stderr)
        same = ssh_comparison.comparison_plan(plan.instances)
        fit(cloud, same, key)
        laps += ssh_comparison.compare(cloud, same, key, first=i)
    return laps


def _measured(plan: Plan) -> run_cost.Run:
    """Do one run as a user does it, and look what it takes meanwhile.

    Raises HostError if it did not find a golden nonce.
    """
    print(f"bench: {plan.instances} instances", file=sys.stderr)
    before = clouds.local_summary()
    spent = process_usage.tree_seconds(before["pid"])
    options = {"--n": plan.instances, "--d": plan.difficulty, "--t": plan.time_limit}
    words = [str(word) for pair in options.items() for word in pair]
    took = process_usage.follow([*START, *words], patience=plan.lifetime)
    after, result = clouds.local_summary(), jsonlib.loads(took.output)
    return run_cost.Run(
        instances=plan.instances,
        seconds=result["seconds"],
        processor=took.processor,
        memory=took.memory,
        threads=took.threads,
        calls=run_cost.calls_between(before.get("calls", {}), after.get("calls", {})),
        cloud=process_usage.tree_seconds(after["pid"]) - spent,
        fetched=len(os.listdir(result["logs"]["local"])),
    )


def _connected(cloud: str, region: str) -> clouds.Cloud:
    connected = clouds.required(clouds.connect(cloud, region, launch=True))
    print(connected.title, file=sys.stderr)
    return connected


def _beside(name: str) -> dict[int, float]:
    """Return somebody else's times, by N: in a file, or the coursework report's."""
    if not name:
        return speedup.REPORT
    path = arguments.existing_file(name, "--beside")
    try:
        return speedup.others(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"--beside {name!r} is no text") from error


def _chart_file(name: str) -> Path | None:
    """Return where to draw; refuse at once what could not be written in the end."""
    if not name:
        return None
    path = expanded(name)
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"--chart must end in .svg or .png, not {name!r}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--chart {name!r}: there is no such folder")
    return path


def _draw(path: Path | None, draw: Callable[[ModuleType, Path], None]) -> None:
    """Draw a chart; what fails there costs the chart, not the figures."""
    if path is None:
        return
    try:
        from cnd.bench import (
            charts as bench_charts,  # takes a second, and may not be installed
        )

        draw(bench_charts, path)
        told = f"the chart is in {path}"
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        told = "no chart: it needs matplotlib (pip install 'cnd[report]')"
    except OSError as error:
        told = f"no chart: cannot write {path}: {error.strerror}"
    print(told, file=sys.stderr)


def _scaling(runs: Runs, beside: dict[int, float], show: Show) -> None:
    """Carry out `runs`, compare how long they searched, and tell it."""
    cloud, local = runs.cloud, runs.cloud.name == "local"
    if local and not cloud.rate_cap:
        told = CORES.format(cores=os.cpu_count(), what="number; more of them are no")
        hint = (
            "faster, unless CND_LOCAL_RATE=1000 or so holds each to a rate of its own"
        )
        print(f"{told} {hint}", file=sys.stderr)
    took: dict[int, list[float]] = {}
    nonce = -1
    for plan in runs.plans:
        result = _carried_out(plan, runs)
        if result.outcome.ending is not Ending.FOUND or not result.smallest:
            raise _without("no smallest nonce was found", result)
        nonce = result.outcome.nonce or 0
        took.setdefault(plan.instances, []).append(result.seconds.search or 0.0)
    table, difficulty = speedup.rows(took, beside), runs.plans[0].difficulty
    of_report = beside is speedup.REPORT
    title = speedup.REPORTS if of_report else "beside"
    if show.json:
        found = {"difficulty": difficulty, "nonce": nonce, "cloud": cloud.name}
        limits = {
            "rate_cap": cloud.rate_cap,
            "cores": os.cpu_count() if local else None,
        }
        rows = {"beside_is": title, "rows": [asdict(row) for row in table]}
        print(jsonlib.dumps({**found, **limits, **rows}))
    elif show.csv:
        print(speedup.to_csv(table, title))
    else:
        print(speedup.text(table, difficulty, nonce, title))
    name = "the coursework report's own" if of_report else title
    _draw(show.chart, lambda charts, path: charts.draw(table, path, name))
    if warning := speedup.caveat(table, nonce, local=local):
        print(f"bench: {warning}", file=sys.stderr)


def _types(runs: Runs, show: Show) -> None:
    """Carry out `runs`, each until its time is over; compare rates and prices."""
    local = runs.cloud.name == "local"
    if local:
        told = CORES.format(
            cores=os.cpu_count(), what="type: only AWS tells them apart"
        )
        print(told, file=sys.stderr)
    took: dict[str, list[Result]] = {}
    for plan in runs.plans:
        result = _carried_out(plan, runs)
        if not result.hash_rate:
            raise _without("nothing was measured", result)
        took.setdefault(plan.instance_type, []).append(result)
    usd = {p.instance_type: None if local else p.usd_per_hour for p in runs.plans}
    found = [
        speedup.TypeRate(
            name,
            tuple(each.hash_rate or 0.0 for each in results),
            results[0].kernel or "",
            usd[name],
        )
        for name, results in took.items()
    ]
    if show.json:
        print(jsonlib.dumps({"types": [worth.to_json() for worth in found]}))
    elif show.csv:
        print(speedup.written([worth.to_json() for worth in found]))
    else:
        print(speedup.type_table(found))
    _draw(show.chart, lambda charts, path: charts.draw_types(found, path))


def _carried_out(plan: Plan, runs: Runs) -> Result:
    """Do one run, as `start` does, without a report of its own.

    Raises:
        CndError, Exit: what the run ended with, or an interruption: none comes after.
    """
    fit(runs.cloud, plan, runs.key)
    journal = Journal(new_run())
    journal.create()
    with (
        journal.followed(),
        contextlib.closing(BackgroundViewer(Narrator(plan))) as shown,
    ):
        result = Job(plan, runs.cloud, journal, view=shown).execute(runs.key)
    if result.leaked:
        hint = f"run `fab scram --run {result.run}`"
        raise LeakError(result.leaked, "not seen terminated", hint=hint)
    if result.outcome.ending in (Ending.STOPPED, Ending.INTERRUPTED):
        raise _without("the bench is over", result)
    return result


def _without(what: str, result: Result) -> Exit:
    """Return what ends the bench for want of a figure, with that run's status."""
    status = result.outcome.ending.exit_status or HostError.exit_status
    reason = f"cnd: {what}: run {result.run} ended: {result.outcome.reason}"
    return Exit(reason, code=status)
