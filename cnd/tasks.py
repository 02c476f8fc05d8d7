"""The commands of every day: start, resume, attach, scram, stop, status, verify.

One rule: no decisions here.  A command takes checked options, calls what it needs below
and prints; data goes to stdout, messages to stderr.
"""

from __future__ import annotations

import json as jsonlib
from functools import partial

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit

import cnd
from cnd.cli import settings
from cnd.cli.carry_out import (
    carried_out,
    check_account,
    conclude,
    decided,
    new_journal,
    searched,
)
from cnd.cli.connect import connected, required
from cnd.cli.options import (
    AttachOptions,
    ResumeOptions,
    ScramOptions,
    StartOptions,
    StatusOptions,
    StopOptions,
    VerifyOptions,
)
from cnd.cli.output import left_at_once, print_data, say
from cnd.cli.program import Help, Program
from cnd.cli.report_at_end import reported
from cnd.cli.request import needed_difficulty, start_request, user_key
from cnd.cli.resumed import resumed
from cnd.cli.search_again import search_again
from cnd.cli.task import task
from cnd.cli.tasks_bench import bench
from cnd.cli.tasks_local import local
from cnd.cli.tasks_look import export, list_runs, logs, report
from cnd.cli.tasks_plan import clean, config, doctor, plan
from cnd.model.claim import hashed
from cnd.model.plan import MAX_NONCES, Plan
from cnd.run import custom_worker, order, reuse, scram_runs, stop_run, take_over
from cnd.run import status as run_status
from cnd.run.job import Job
from cnd.run.journal import Journal
from cnd.system import folders, process_start, standard_streams


@task(StartOptions)
def start(c: Context, options: StartOptions) -> None:
    """Find a golden nonce on N instances, then terminate them all."""
    if "on" in options.given:
        search_again(options, settings.files_of(c))
        return
    asked, key = start_request(options), user_key(options.key_file)
    cloud = required(options.cloud, options.region, launch=True)
    run = decided(asked, cloud, key, options)
    check_account(cloud, run.plan, key)
    journal = new_journal()
    if options.worker:
        custom_worker.keep(options.worker, journal.folder)
    with reported(journal, wanted=not options.no_report):
        result = searched(run, cloud, journal, key, options)
        conclude(result, options.json)


@task(ResumeOptions, configured=("budget",))
def resume(c: Context, options: ResumeOptions) -> None:
    """Go on where a run ended: test exactly what it has left, on N instances.

    What the command line leaves out is as RUN had it.
    """
    key = user_key(options.key_file)
    found = resumed(options.run, options, partial(required, launch=True))
    cloud = found.required_cloud
    with found.claimed():
        say(found.sentence)
        run = decided(found.request, cloud, key, options)
        check_account(cloud, run.plan, key)
        journal = new_journal()
        if name := run.plan.script:
            custom_worker.keep(found.journal.folder / name, journal.folder)
        with reported(journal, wanted=not options.no_report):
            conclude(searched(run, cloud, journal, key, options), options.json)


@task(AttachOptions)
def attach(c: Context, options: AttachOptions) -> None:
    """Take over a run whose orchestrator died, and bring it to its end."""
    journal = Journal(options.run or run_status.abandoned())
    kept = order.to_take_over(journal)
    cloud = required(kept.cloud, kept.region)
    past = take_over.prepared(journal, kept, cloud, say)
    work = partial(Job.attach, provision=kept.provision)
    with (
        reuse.claimed(kept.plan.fleet_of),
        reported(journal, wanted=True),
    ):
        result = carried_out(kept.plan, cloud, journal, work, options, past)
        conclude(result, options.json)


@task(ScramOptions, despite_files=True)
def scram(c: Context, options: ScramOptions) -> None:
    """Terminate every instance that CND launched, and see it terminated.

    Repeating it is harmless: nothing to do is success.  Instances without CND's
    tags are never touched.
    """
    cloud = connected(options)
    regions = [cloud] if cloud else []
    if cloud and options.all_regions:
        regions = scram_runs.all_regions(cloud)
    ended, failures = scram_runs.scram_regions(regions, options.run, say)
    if options.json:
        print_data(jsonlib.dumps({"terminated": [instance.id for instance in ended]}))
    else:
        for each in ended:
            print_data(f"terminated {each.id} (Instance{each.index} of {each.run})")
        if not failures:
            print_data("0 instances running" if ended else "nothing was running")
    if failures:
        raise max(failures, key=lambda error: error.exit_status)


@task(StopOptions, despite_files=True)
def stop(c: Context, options: StopOptions) -> None:
    """Put a stop message on a run's queue: it ends in order, with its logs."""
    run = stop_run.stop(connected(options), options.run, options.message)
    record = jsonlib.dumps({"run": run, "message": options.message})
    print_data(record if options.json else f"asked {run} to stop")


@task(StatusOptions, despite_files=True)
def status(c: Context, options: StatusOptions) -> None:
    """List the live instances of CND, and the runs on this disk."""
    cloud = connected(options)
    found = run_status.survey(run_status.listed(cloud), cloud)
    print_data(jsonlib.dumps(found.to_json()) if options.json else found.text())


@task(VerifyOptions, despite_files=True)
def verify(c: Context, options: VerifyOptions) -> None:
    """Print the hash of a nonce and whether it is golden (exit 0 or 1), offline."""
    plan = Plan(
        difficulty=needed_difficulty(options.difficulty, options.example),
        instances=1,
        time_limit=1,
        block=options.block,
        nonces=MAX_NONCES,
    )
    digest, golden = hashed(plan, options.nonce)
    if options.json:
        found = {"nonce": options.nonce, "hash": digest, "golden": golden}
        print_data(jsonlib.dumps(found))
    else:
        verdict = "golden" if golden else "not golden"
        line = f"{options.nonce} is {verdict} at difficulty {plan.difficulty}"
        print_data(f"{digest}\n{line}")
    if not golden:
        raise Exit(code=1)


BEFORE = """\
cnd: blockchain proof of work in the cloud.  N machines search, the first golden nonce
stops all, nothing is left running.

    cnd start --t 200 --d 2 --n 8     8 instances, 200 s at most, 2 zero hex digits
    cnd COMMAND --help                what a command takes"""
GROUPS = {
    "Before": (plan, doctor, config),
    "The run": (start, status, stop, attach, resume, scram),
    "After": (report, list_runs, logs, export, verify, clean),
    "Without an account": (local, bench),
}
AFTER = """\
Data goes to stdout, messages to stderr; --json prints one object.  Without AWS
credentials, runs go to a local cloud on this machine.  Exit status: 0 found,
10 time over, 11 space exhausted, 12 stopped, 2 impossible request, 3 the cloud
refused, 4 no complete answer, 5 something may be left running, 130 interrupted.
Completion: cnd --print-completion-script bash (or zsh, fish)."""


def program() -> Program:
    """Return the `cnd` program; its `run` ends with SystemExit where that is not 0."""
    return Program(
        name="cnd",
        binary="cnd",
        version=cnd.__version__,
        help=Help(BEFORE, GROUPS, AFTER),
        namespace=Collection(*(task for tasks in GROUPS.values() for task in tasks)),
    )


def main() -> None:
    """Run the `cnd` program."""
    process_start.note()
    standard_streams.prepare()
    folders.name_user()
    with left_at_once():
        program().run()
