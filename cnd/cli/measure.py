"""What `bench` does: measure kernels of this machine, fleets, instance types.

One rule: no decisions here; every run is one that `start` would do, or does.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from invoke.exceptions import Exit

from cnd.bench import kernels as benches
from cnd.bench import process_usage, run_cost, speedup, ssh_comparison
from cnd.cli.carry_out import check_account, new_journal
from cnd.cli.connect import required
from cnd.cli.options_bench import (
    BenchOptions,
    KernelBenchOptions,
    OnCloudOptions,
    ScaleBenchOptions,
    ScalingBenchOptions,
    TypesBenchOptions,
)
from cnd.cli.request import plan_of, user_key
from cnd.cloud import connection
from cnd.cloud.connection import Cloud
from cnd.errors import HostError, LeakError
from cnd.model.outcome import Ending
from cnd.model.plan import Plan
from cnd.model.result import Result
from cnd.planning import instance_types
from cnd.planning.forecast import Request, check_budget, decide
from cnd.run.job import Job
from cnd.system.folders import above_package, state_folder
from cnd.transport.keys import UserKey
from cnd.view.guarded import BackgroundViewer
from cnd.view.narrator import Narrator

CORES = (
    "bench: hosts of the local cloud share this machine's {cores} cores, whatever "
    "their {what}"
)
# `cnd` may not be on the path, but its code is here; Python would look for it in the
# working folder first, where another file may have its name.
PROGRAM = (
    "import sys; sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]; "
    "from cnd.tasks import main; main()"
)
START = (
    *(sys.executable, "-c", PROGRAM, str(above_package()), "start"),
    *("--cloud", "local", "--json", "--plain", "--no-report"),
)
OUT_OF_REACH = 32  # zero hex digits: no search finds so many within its time limit


def measure(options: BenchOptions) -> None:
    """Measure what the options ask for, and print it."""
    if isinstance(options, KernelBenchOptions):
        measured = benches.kernel_bench(options.seconds)
        print(measured.to_json() if options.json else measured.text())
    elif isinstance(options, ScaleBenchOptions):
        _scale(options)
    elif isinstance(options, ScalingBenchOptions):
        _scaling(options)
    elif isinstance(options, TypesBenchOptions):
        _types(options)


@dataclass(frozen=True)
class Runs:
    """The runs of a bench, decided, and where they are to be done."""

    plans: list[Plan]
    cloud: Cloud
    key: UserKey


def _decided(plans: list[Plan], options: OnCloudOptions) -> Runs:
    """Return the runs, each decided as `start` does it.

    Raises:
        UsageError: all of them together may exceed the budget.
    """
    asked = [Request(plan, given=True, budget=options.budget) for plan in plans]
    key = user_key(options.key_file)
    cloud = required(options.cloud, options.region, launch=True)
    decided, folder = [], state_folder()
    for each in asked:
        ranked = instance_types.ranked(cloud, each)
        known = instance_types.machine(cloud, folder, ranked.plan)
        decided.append(decide(ranked, known))
    check_budget(decided, options.budget)
    return Runs(decided, cloud, key)


def _scale(options: ScaleBenchOptions) -> None:
    """Do runs of growing fleets, each in a process of its own; print what they cost."""
    process_usage.require()
    difficulty, limit = options.difficulty, options.time_limit
    plans = [Plan(difficulty, n, limit) for n in options.instances] * options.repeat
    table = run_cost.rows([_measured(plan) for plan in plans])
    trials = run_cost.medians(_trials(plans) if options.rivals else [])
    if options.json:
        found = {"difficulty": difficulty, "cores": os.cpu_count()}
        rows = [row.to_json() for row in table]
        print(jsonlib.dumps({**found, "rows": rows, "laps": list(map(asdict, trials))}))
        return
    print(run_cost.text(table, difficulty))
    if trials:
        print(run_cost.trials_text(trials))


def _trials(plans: list[Plan]) -> list[run_cost.Trial]:
    """Measure CND and the other tools at the same work on fleets of the same sizes."""
    cloud = required("local", "", launch=True)
    key = user_key(None)
    trials = []
    for i, plan in enumerate(plans):
        print(f"bench: a comparison on {plan.instances} hosts", file=sys.stderr)
        same = ssh_comparison.comparison_plan(plan.instances)
        check_account(cloud, same, key)
        trials += ssh_comparison.compare(cloud, same, key, first=i)
    return trials


def _measured(plan: Plan) -> run_cost.Run:
    """Do one run as a user does it, and measure what it takes of this machine.

    Raises:
        HostError: it did not find a golden nonce.
    """
    print(f"bench: {plan.instances} instances", file=sys.stderr)
    before = connection.local_summary()
    spent = process_usage.tree_seconds(before["pid"])
    options = {"--n": plan.instances, "--d": plan.difficulty, "--t": plan.time_limit}
    words = [str(word) for pair in options.items() for word in pair]
    took = process_usage.follow([*START, *words], patience=plan.lifetime)
    after, result = connection.local_summary(), jsonlib.loads(took.output)
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


def _draw(path: Path | None, draw: Callable[[ModuleType, Path], None]) -> None:
    """Draw a chart; a failure costs the chart, not the figures."""
    if path is None:
        return
    try:
        from cnd.bench import (
            charts as bench_charts,  # takes a second, and may not be installed
        )

        draw(bench_charts, path)
        message = f"the chart is in {path}"
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        message = "no chart: it needs matplotlib (pip install 'cnd[report]')"
    except OSError as error:
        message = f"no chart: cannot write {path}: {error.strerror}"
    print(message, file=sys.stderr)


def _scaling(options: ScalingBenchOptions) -> None:
    """Do the same search on fleets of different sizes; compare how long it took."""
    # Not all runs of one N at once: a disturbance of the machine then affects every N.
    plans = [
        plan_of(options, options.instance_type, instances=n, smallest=True)
        for n in options.instances
    ] * options.repeat
    runs = _decided(plans, options)
    cloud, local = runs.cloud, runs.cloud.name == "local"
    if local and not cloud.rate_cap:
        shared = CORES.format(cores=os.cpu_count(), what="number; more of them are no")
        hint = (
            "faster, unless CND_LOCAL_RATE=1000 or so holds each to a rate of its own"
        )
        print(f"{shared} {hint}", file=sys.stderr)
    took, nonce = _searched(runs)
    of_report = options.beside is None
    table = speedup.rows(took, speedup.REPORT if of_report else options.beside)
    title = speedup.REPORTS if of_report else "beside"
    if options.json:
        rows = {"beside_is": title, "rows": [asdict(row) for row in table]}
        found = {"difficulty": options.difficulty, "nonce": nonce, "cloud": cloud.name}
        cores = os.cpu_count() if local else None
        limits = {"rate_cap": cloud.rate_cap, "cores": cores}
        print(jsonlib.dumps({**found, **limits, **rows}))
    elif options.csv:
        print(speedup.to_csv(table, title))
    else:
        print(speedup.text(table, options.difficulty, nonce, title))
    name = "the coursework report's own" if of_report else title
    _draw(options.chart, lambda charts, path: charts.draw(table, path, name))
    if warning := speedup.caveat(table, nonce, local=local):
        print(f"bench: {warning}", file=sys.stderr)


def _searched(runs: Runs) -> tuple[dict[int, list[float]], int]:
    """Do runs; return the seconds of their searches by N, and the nonce they found."""
    took: dict[int, list[float]] = {}
    nonce = -1
    for plan in runs.plans:
        result = _carried_out(plan, runs)
        if result.outcome.ending is not Ending.FOUND or not result.smallest:
            raise _without("no smallest nonce was found", result)
        nonce = result.outcome.nonce or 0
        took.setdefault(plan.instances, []).append(result.seconds.search or 0.0)
    return took, nonce


def _types(options: TypesBenchOptions) -> None:
    """Measure instance types until the time limit; compare their rates and prices."""
    common = {"difficulty": OUT_OF_REACH, "instances": 1, "time_limit": options.seconds}
    plans = [plan_of(options, [name], **common) for name in options.types]
    runs = _decided(plans * options.repeat, options)
    local = runs.cloud.name == "local"
    if local:
        shared = CORES.format(
            cores=os.cpu_count(), what="type: only AWS tells them apart"
        )
        print(shared, file=sys.stderr)
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
    if options.json:
        print(jsonlib.dumps({"types": [each.to_json() for each in found]}))
    elif options.csv:
        print(speedup.written([each.to_json() for each in found]))
    else:
        print(speedup.type_table(found))
    _draw(options.chart, lambda charts, path: charts.draw_types(found, path))


def _carried_out(plan: Plan, runs: Runs) -> Result:
    """Do one run, as `start` does, without a report of its own.

    Raises:
        CndError, Exit: the run failed or was stopped; the bench ends with it.
    """
    check_account(runs.cloud, plan, runs.key)
    journal = new_journal()
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
    """Return the exit of a bench that lacks a figure, with the status of that run."""
    status = result.outcome.ending.exit_status or HostError.exit_status
    reason = f"cnd: {what}: run {result.run} ended: {result.outcome.reason}"
    return Exit(reason, code=status)
