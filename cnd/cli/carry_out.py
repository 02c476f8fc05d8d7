"""One run, from what is asked for to its printed result.

One rule: the run is the only thing that counts.  A view that fails, or a stdout that
takes nothing, changes nothing of how the run ends.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from invoke.exceptions import Exit

from cnd.cli.options import LaunchOptions, RunOptions, ViewOptions
from cnd.cli.output import print_data, say
from cnd.cli.request import boot_allowance
from cnd.cli.settings import DEFAULTS
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError, LeakError
from cnd.model.events import Event
from cnd.model.outcome import Ending
from cnd.model.plan import Plan
from cnd.model.result import Result
from cnd.model.run_name import new_run
from cnd.planning import (
    choice,
    forecast,
    free_tier,
    instance_types,
    local_rate,
    preflight,
)
from cnd.planning.forecast import Machine, Request
from cnd.run import status
from cnd.run.job import Job
from cnd.run.journal import RESULT, Journal, runs
from cnd.run.reuse import FleetLeft
from cnd.run.shutdown import scram_words
from cnd.run.viewer import Viewer
from cnd.system import open_files, process_start, standard_streams
from cnd.system.folders import state_folder
from cnd.transport.keys import UserKey
from cnd.view import guarded, narrator, terminal


class Decided(NamedTuple):
    """What is to be done, and since when it is under way."""

    plan: Plan
    known: Machine  # of the plan's instance type
    began: float  # on the monotonic clock: with the command, or after a trial


def decided(
    asked: Request, cloud: Cloud, key: UserKey, options: LaunchOptions
) -> Decided:
    """Return the plan to execute.

    Where N depends on a hash rate that is not known, a trial run measures it before.
    """
    began = process_start.began()
    folder, kernel = state_folder(), asked.plan.kernel
    asked = with_type(asked, cloud, options)
    asked = instance_types.on_spot(cloud, instance_types.ranked(cloud, asked))
    measure = (lambda: local_rate.rate(kernel)) if asked.confidence else lambda: None
    known = instance_types.machine(cloud, folder, asked.plan, measure=measure)
    if asked.confidence and not (asked.given or known.rate):
        asked = _after_trial(asked, known, cloud, key, options)
        began = time.monotonic()
        known = instance_types.machine(cloud, folder, asked.plan)
    return Decided(forecast.decide(asked, known), known, began)


def with_type(asked: Request, cloud: Cloud | None, options: RunOptions) -> Request:
    """Return what is asked for with the type that "auto" takes, which is told.

    If the default type is not the cheapest, that is told, too.
    """
    folder = state_folder()
    if choice.is_auto(asked):
        best = instance_types.choose(cloud, folder, asked)
        for line in best.lines:
            say(line)
        return choice.taken(asked, best, boot_allowance(best.fleet.plan.types))
    default = options.instance_type == (DEFAULTS["instance_type"],)
    if cloud and cloud.name == "aws" and default and not asked.plan.script:
        machines = instance_types.others(cloud, folder, asked.plan.kernel)
        in_tier = free_tier.is_in(cloud)
        if line := choice.cheaper(asked, machines, free_tier=in_tier):
            say(line)
    return asked


def _after_trial(
    asked: Request, known: Machine, cloud: Cloud, key: UserKey, options: LaunchOptions
) -> Request:
    """Do a run that measures an instance type; return what is asked for after it.

    Raises:
        CndError, Exit: the trial was ended otherwise than by its time limit.
    """
    plan = forecast.decide(forecast.trial(asked), known)
    worst = forecast.usd(plan.worst_case_usd)
    say(
        f"the hash rate of {known.type} is not known: a trial of {plan.time_limit:g} s "
        f"on one instance measures it ({worst} at worst)"
    )
    check_account(cloud, plan, key)
    run = Decided(plan, known, process_start.began())
    result = searched(run, cloud, new_journal(), key, options)
    if result.outcome.ending is not Ending.TIMEOUT or result.leaked:
        conclude(result, options.json)
    cost = forecast.trial_cost(plan, result.seconds.total, result.usd)
    return forecast.charged(asked, cost)


def check_account(cloud: Cloud, plan: Plan, key: UserKey) -> None:
    """Check what can be checked quickly, before anything is bought.

    Raises:
        UsageError: this machine cannot hold so many connections.
        CloudError: the first fault.  Warnings are printed.
    """
    if not plan.without_ssh:
        open_files.allow(plan.instances)
    if cloud.name == "local":
        return  # nothing there is limited, and nothing costs
    case = preflight.Case(cloud, plan, key)
    for check in preflight.examine(case, preflight.FAST):
        if check.status == preflight.FAULT:
            raise CloudError(f"{check.name}: {check.text}", hint=check.way_out or None)
        if check.status == preflight.WARNING:
            print(check.line, file=sys.stderr)


def new_journal() -> Journal:
    """Return the journal of a new run; its folder is there."""
    journal = Journal(new_run(max(runs(1), default="")))
    journal.create()
    return journal


def searched(
    run: Decided,
    cloud: Cloud,
    journal: Journal,
    key: UserKey,
    options: LaunchOptions,
) -> Result:
    """Do a new run, and remember the hash rate that it measures."""
    work = partial(
        Job.execute,
        key=key,
        bucket=options.bucket,
        strays=partial(status.strays_on, cloud),
    )
    result = carried_out(run.plan, cloud, journal, work, options, began=run.began)
    if not run.plan.script:
        instance_types.learn(state_folder(), cloud, run.plan, run.known, result)
    return result


def searched_on(
    left: FleetLeft,
    plan: Plan,
    cloud: Cloud,
    journal: Journal,
    options: LaunchOptions,
    *,
    extend: bool,
) -> Result:
    """Do a new run on a fleet that is up.

    Args:
        extend: whether its lifetime timers are to be set anew.
    """
    work = partial(Job.search_on, left=left, extend=extend)
    began = process_start.began()
    return carried_out(plan, cloud, journal, work, options, began=began)


def carried_out(
    plan: Plan,
    cloud: Cloud,
    journal: Journal,
    work: Callable[[Job], Result],
    options: ViewOptions,
    past: Iterable[Event] = (),
    *,
    began: float | None = None,
) -> Result:
    """Do a run, or the rest of one, as its only follower.

    A run that breaks off leaves a result, too, if anything is known: it is printed.

    Args:
        past: the events of a run that is taken over.
        began: when a new run began, on the monotonic clock.
    """
    job: Job | None = None
    viewer = partial(_viewer, plan, options.plain, past)
    try:
        shown = guarded.BackgroundViewer(
            guarded.FallbackViewer(viewer, partial(narrator.Narrator, plan))
        )
        with journal.followed(), contextlib.closing(shown):
            job = Job(plan, cloud, journal, view=shown, began=began)
            return work(job)
    finally:
        if job and job.broken_off:
            print_result(job.broken_off, options.json)


def _viewer(plan: Plan, plain: bool, past: Iterable[Event]) -> Viewer:
    """Return a live table, or progress lines where no terminal can show one."""
    if plain or not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        return narrator.Narrator(plan, past=past)
    if os.environ.get("TERM", "dumb") == "dumb":
        return narrator.Narrator(plan, past=past)
    from cnd.view.live_table import LiveView  # here: rich takes a tenth of a second

    return LiveView(plan, sys.stderr, past=past)


def conclude(result: Result, json: bool) -> None:
    """Print a result, and end with its exit status.

    Raises:
        LeakError: instances were not seen terminated.
        Exit: the run ended otherwise than by a find.
    """
    print_result(result, json)
    if result.leaked:
        message = f"not seen terminated in {result.region}, perhaps still running"
        hint = f"run `{scram_words(result.run, result.cloud, result.region)}`"
        raise LeakError(result.leaked, message, hint=hint)
    if status := result.outcome.ending.exit_status:
        raise Exit(code=status)


def print_result(result: Result, json: bool) -> None:
    """Print a result; where stdout takes nothing, say where the result is kept."""
    width = terminal.width_of(sys.stdout)
    text = jsonlib.dumps(result.to_json()) if json else narrator.report(result, width)
    try:
        print_data(text)
    except OSError:
        if (failure := standard_streams.unwritten()) is None:
            raise
        kept = Journal(result.run).folder / RESULT
        why = f"stdout cannot be written to: {failure.strerror}"
        say(f"{why}; the result is in {kept}")
