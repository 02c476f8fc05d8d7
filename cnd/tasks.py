"""The commands: read the arguments, call the core, print, set the exit status.

One rule: no decisions here.  Options arrive as text and are checked before anything
is bought; data goes to stdout, narration to stderr.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit

import cnd
from cnd import ec2, sqs
from cnd import local as local_cloud
from cnd import pow as worker
from cnd.cli import arguments
from cnd.cli.program import (
    Config,
    Executor,
    Help,
    Program,
    collect_rarely,
    left_at_once,
    nobody_reads,
    rest,
    task,
)
from cnd.cli.tasks_bench import bench
from cnd.cli.tasks_look import export, list_runs, logs, report, reported
from cnd.cli.tasks_plan import (
    CLOUD_HELP,
    WISH_HELP,
    WISH_LETTERS,
    clean,
    config,
    doctor,
    fit,
    plan,
    user_key,
    wish,
)
from cnd.cli.tasks_plan import whole_difficulty as _difficulty
from cnd.cloud import connection as clouds
from cnd.errors import CloudError, CndError, LeakError, UsageError
from cnd.model.events import Event
from cnd.model.plan import BOOT_ALLOWANCE, Plan
from cnd.model.result import Result
from cnd.model.run_name import new_run
from cnd.model.search_state import Ending
from cnd.planning import forecast, instance_types, local_rate
from cnd.provision import auto_scaling
from cnd.provision import scram as ending
from cnd.provision.prepare import way_in
from cnd.provision.retry import again
from cnd.run import custom_worker, order, viewer
from cnd.run import status as run_status
from cnd.run.job import Job
from cnd.run.journal import RESULT, Journal
from cnd.run.shutdown import scram_words
from cnd.system import folders, open_files, standard_streams
from cnd.system.folders import state_folder
from cnd.transport.keys import UserKey
from cnd.view import guarded, narrator, terminal

PLAIN_HELP = "lines instead of a table, as where there is no terminal"


@task(
    letters=WISH_LETTERS,
    takes_rest=True,
    help={
        **WISH_HELP,
        "bucket": "an S3 bucket of yours for the logs; default: CND's own",
        "key_file": "an SSH private key of yours; default: CND's own",
        "json": "print one JSON object to stdout, and nothing else",
        "keep": "leave the fleet up for a look; its lifetime timer still runs",
        "replace": "launch a new instance for one that is lost",
        "worker": "search with a script of yours, called with the words after --",
        "plain": PLAIN_HELP,
        "no_report": "write no report.html at the end",
        **CLOUD_HELP,
    },
)
def start(
    c: Context,
    time_limit: str = "200",
    difficulty: str = "",
    instances: str = "",
    confidence: str = "",
    budget: str = "",
    at_least: str = "",
    block: str = "",
    nonces: str = "2**32",
    cloud: str = "",
    region: str = "",
    instance_type: str = "",
    image: str = "",
    user: str = "",
    subnet: str = "",
    ssh_from: str = "",
    address: str = "public",
    gateway: str = "",
    boot: str = str(BOOT_ALLOWANCE),
    kernel: str = "auto",
    bootstrap: str = "auto",
    spot: bool = False,
    spot_or_on_demand: bool = False,
    hold: bool = False,
    smallest: bool = False,
    bucket: str = "",
    key_file: str = "",
    json: bool = False,
    keep: bool = False,
    replace: bool = False,
    worker: str = "",
    plain: bool = False,
    no_report: bool = False,
) -> None:
    """Find a golden nonce on N instances, then terminate them all."""
    asked_kernel = "" if kernel == "auto" else kernel
    script = _own_worker(worker, difficulty, confidence, asked_kernel)
    words = tuple(rest())
    if script:
        difficulty, block = "0", ""  # nobody looks at them
    asked = wish(
        time_limit=time_limit,
        difficulty=difficulty,
        instances=instances,
        confidence=confidence,
        budget=budget,
        at_least=at_least,
        spot=spot,
        spot_or_on_demand=spot_or_on_demand,
        hold=hold,
        smallest=smallest,
        block=block,
        nonces=nonces,
        instance_type=instance_type,
        image=image,
        user=user,
        subnet=subnet,
        ssh_from=ssh_from,
        address=address,
        gateway=gateway,
        boot=boot,
        kernel=kernel,
        bootstrap=bootstrap,
        keep=keep,
        replace=replace,
        script=custom_worker.name_of(script) if script else "",
        words=words,
    )
    key = user_key(key_file)
    connected = clouds.required(clouds.connect(cloud, region, launch=True))
    _say(connected.title)
    for stray in run_status.strays(ec2.find(connected.ec2, states=ec2.ALL), connected):
        _say(stray)
    folder = state_folder()
    asked = instance_types.on_spot(connected, instance_types.ranked(connected, asked))
    measure = (lambda: local_rate.rate(kernel)) if asked.confidence else lambda: None
    known = instance_types.machine(connected, folder, asked.plan, measure=measure)
    if asked.confidence and not (asked.given or known.rate):
        tried = forecast.decide(forecast.trial(asked), known)
        result = _tried(tried, connected, known, key, bucket, plain, json)
        if result.outcome.ending is not Ending.TIMEOUT or result.leaked:
            _conclude(result, json)
        cost = forecast.at_most(tried, result.seconds.total, result.usd)
        asked = forecast.charged(asked, cost)
        known = instance_types.machine(connected, folder, asked.plan)
    decided = forecast.decide(asked, known)
    fit(connected, decided, key)
    journal = Journal(new_run())
    journal.create()
    if script:
        custom_worker.keep(script, journal.folder)
    viewer = partial(_viewer, decided, plain)
    with reported(journal, connected, wanted=not no_report):
        result = _carried_out(
            decided,
            connected,
            journal,
            viewer,
            lambda job: job.execute(key, bucket=bucket),
            json,
        )
        if not script:
            instance_types.learn(folder, connected, decided, known, result)
        _conclude(result, json)


@task(
    positional=["run"],
    help={
        "run": "the run to take over; default: the one that nobody follows",
        "plain": PLAIN_HELP,
        "json": "print one JSON object to stdout, and nothing else",
    },
)
def attach(c: Context, run: str = "", json: bool = False, plain: bool = False) -> None:
    """Take over a run whose orchestrator died, and bring it to its end."""
    journal = Journal(arguments.run_name(run) or run_status.abandoned())
    kept = order.to_take_over(journal)
    connected = clouds.required(clouds.connect(kept.cloud, kept.region))
    _say(connected.title)
    if connected.account != kept.account:
        message = f"run {journal.run} belongs to account {kept.account}"
        raise UsageError(message, hint="log in to that account, then attach again")
    plan, provision = kept.plan, kept.provision
    past = list(journal.events())
    if journal.complaint:
        _say(f"run {journal.run}: {journal.complaint}")
    if not plan.unreached:
        open_files.allow(plan.instances)
        _let_in(connected, plan)
    viewer = partial(_viewer, plan, plain, past)
    with reported(journal, connected, wanted=True):
        result = _carried_out(
            plan, connected, journal, viewer, lambda job: job.attach(provision), json
        )
        _conclude(result, json)


def _tried(
    plan: Plan,
    cloud: clouds.Cloud,
    known: forecast.Machine,
    key: UserKey,
    bucket: str,
    plain: bool,
    json: bool,
) -> Result:
    """Do a run that measures an instance type, and remember what it measured."""
    worst = forecast.usd(plan.worst_case_usd)
    _say(
        f"the hash rate of {known.type} is not known: a trial of {plan.time_limit:g} s "
        f"on one instance measures it ({worst} at worst)"
    )
    fit(cloud, plan, key)
    journal = Journal(new_run())
    journal.create()
    viewer = partial(_viewer, plan, plain)
    work = partial(Job.execute, key=key, bucket=bucket)
    result = _carried_out(plan, cloud, journal, viewer, work, json)
    instance_types.learn(state_folder(), cloud, plan, known, result)
    return result


def _let_in(cloud: clouds.Cloud, plan: Plan) -> None:
    """Let SSH in from where this machine is now; perhaps it was let in before."""
    try:
        way_in(cloud, plan)
    except CloudError as error:
        _say(f"{error}: SSH is let in from where the run was started")


def _own_worker(
    name: str, difficulty: str, confidence: str, kernel: str
) -> Path | None:
    """Return the user's own worker, if there is one; refuse what it has no use for."""
    if not name:
        if rest():
            message = (
                f"-- {' '.join(rest())}: there is no worker that takes these words"
            )
            raise UsageError(message, hint="say --worker FILE as well")
        return None
    given = {"--d": difficulty, "--confidence": confidence, "--kernel": kernel}
    if wrong := [option for option, text in given.items() if text]:
        message = f"{wrong[0]} is for golden nonces: it does not go with --worker"
        raise UsageError(message, hint="what your script is to know comes after --")
    path = arguments.existing_file(name, "--worker")
    custom_worker.read(path)
    return path


def _carried_out(
    plan: Plan,
    cloud: clouds.Cloud,
    journal: Journal,
    viewer: Callable[[], viewer.Viewer],
    work: Callable[[Job], Result],
    json: bool,
) -> Result:
    """Do a run, or the rest of one, as its only follower.

    What came of one that broke off is printed, where there is something.
    """
    job: Job | None = None
    try:
        shown = guarded.BackgroundViewer(
            guarded.FallbackViewer(viewer, partial(narrator.Narrator, plan))
        )
        with journal.followed(), contextlib.closing(shown):
            job = Job(plan, cloud, journal, view=shown)
            return work(job)
    finally:
        if job and job.broken_off:
            _tell(job.broken_off, json)


def _viewer(plan: Plan, plain: bool, past: Iterable[Event] = ()) -> viewer.Viewer:
    """Return a table that lives, or lines where there is no terminal for it."""
    if plain or not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        return narrator.Narrator(plan, past=past)
    if os.environ.get("TERM", "dumb") == "dumb":
        return narrator.Narrator(plan, past=past)
    from cnd.view.live_table import LiveView  # here: rich takes a tenth of a second

    return LiveView(plan, sys.stderr, past=past)


def _conclude(result: Result, json: bool) -> None:
    """Print a result, and end with its exit status."""
    _tell(result, json)
    if result.leaked:
        message = f"not seen terminated in {result.region}, perhaps still running"
        hint = f"run `{scram_words(result.run, result.cloud, result.region)}`"
        raise LeakError(result.leaked, message, hint=hint)
    if status := result.outcome.ending.exit_status:
        raise Exit(code=status)


def _tell(result: Result, json: bool) -> None:
    """Print a result; a stdout that takes nothing changes nothing of how it ended."""
    width = terminal.width_of(sys.stdout)
    text = jsonlib.dumps(result.to_json()) if json else narrator.report(result, width)
    try:
        _print(text)
    except OSError:
        if (failure := standard_streams.unwritten()) is None:
            raise
        kept = Journal(result.run).folder / RESULT
        why = f"stdout cannot be written to: {failure.strerror}"
        _say(f"{why}; the result is in {kept}")


@task(
    despite_files=True,
    help={
        "run": "only this run; default: every run of CND in the account's region",
        "all_regions": "in every region of the account",
        "json": "print one JSON object to stdout, and nothing else",
        **CLOUD_HELP,
    },
)
def scram(
    c: Context,
    run: str = "",
    cloud: str = "",
    region: str = "",
    all_regions: bool = False,
    json: bool = False,
) -> None:
    """Terminate every instance that CND launched, and see it terminated.

    Repeating it is harmless: nothing to do is success.  Instances without CND's
    tags are never touched.
    """
    run = arguments.run_name(run)
    connected = _connected(cloud, region)
    places = [connected] if connected else []
    if connected and all_regions:
        places = [connected.within(name) for name in ec2.regions(connected.ec2)]
    ended: list[ec2.Instance] = []
    failures: list[CndError] = []
    for place in places:
        try:
            ended += _scrammed(place, run)
        except CndError as error:  # the other regions have their turn all the same
            failures.append(error)
            if len(places) > 1:
                _say(f"{place.region}: {error}")
    _tell_scram(ended, json, whole=not failures)
    if failures:
        raise max(failures, key=lambda error: error.exit_status)


def _tell_scram(ended: list[ec2.Instance], json: bool, *, whole: bool) -> None:
    if json:
        _print(jsonlib.dumps({"terminated": [instance.id for instance in ended]}))
        return
    for instance in ended:
        _print(f"terminated {instance.id} (Instance{instance.index} of {instance.run})")
    if whole:
        _print("0 instances running" if ended else "nothing was running")


def _scrammed(place: clouds.Cloud, run: str) -> list[ec2.Instance]:
    """Scram the instances in one region; return them."""
    client = place.ec2  # to make it takes time: before a run is told, and begins to end
    groups = _groups(place, run)
    queued: list[str] = []
    heeded = set()  # by whoever follows them: they may end their own before we do
    with _at_best():
        for name in _tell_runs(place, run, "scram"):
            queued.append(name)
            if run_status.may_be_followed(name):
                heeded.add(name)
    # To list hundreds takes seconds, in which they cost; but what a group holds it
    # would launch anew.
    asked = set() if groups else ec2.sweep(client, run=run or None)
    listed = again(lambda: ec2.find(client, run=run or None, states=ec2.ALL))
    unsure = [r for r in run_status.under_way(listed, place) if run in ("", r)]
    going = {i.id for i in listed if i.state in ec2.GOING} | asked
    lived = [i for i in listed if i.id in going or i.run in heeded]
    unsure += run_status.launching(queued, lived)
    if unsure:
        said = f"a launch of {', '.join(unsure)} may be under way: looking for"
        _say(f"{said} {place.listed_within:.0f} s what comes of it")
    ended = ending.scram(
        place,
        run or None,
        groups=groups,
        known=going - asked,
        asked=asked,
        look=place.listed_within if unsure else 0.0,
        # A run that is stopped may itself end what it has launched meanwhile.
        past={i.id for i in listed} - {i.id for i in lived},
    )
    by_run = ec2.by_run(ended)
    for name in {*by_run, *unsure}:
        Journal(name).note_scram(len(by_run.get(name, [])))
    with _at_best():
        for name in [run] if run else sqs.runs(place.sqs):
            if queue := sqs.url(place.sqs, name):
                sqs.delete(place.sqs, queue)
    return ended


@contextlib.contextmanager
def _at_best() -> Iterator[None]:
    """Say what the cloud refuses in the block: nothing depends on it."""
    try:
        yield
    except CloudError as error:
        _say(str(error))


def _groups(place: clouds.Cloud, run: str) -> list[str]:
    """Return the Auto Scaling groups to delete; who may not look has made none."""
    try:
        found = auto_scaling.find(place)
    except CloudError as error:
        _say(f"{error}: if a run was started with --hold, see to its group")
        return []
    return [name for name in found if run in ("", name.removeprefix("cnd-"))]


@task(
    despite_files=True,
    help={
        "run": "the run to stop; default: the one that is going on",
        "message": "the reason, for whoever reads it",
        "json": "print one JSON object to stdout, and nothing else",
        **CLOUD_HELP,
    },
)
def stop(
    c: Context,
    run: str = "",
    message: str = "fab stop",
    cloud: str = "",
    region: str = "",
    json: bool = False,
) -> None:
    """Put a stop message on a run's queue: it ends in order, with its logs."""
    run = arguments.run_name(run)
    connected = clouds.required(_connected(cloud, region))
    runs = [run] if run else sqs.runs(connected.sqs)
    if len(runs) != 1:
        found = f"{len(runs)} runs are going on: {', '.join(runs)}" if runs else ""
        hint = "say which: fab stop --run ID" if runs else "`fab status` shows runs"
        raise UsageError(found or "no run is going on", hint=hint)
    if not (queue := sqs.url(connected.sqs, runs[0])):
        message = f"no such run is going on: {runs[0]!r}"
        raise UsageError(message, hint="`fab status` shows runs")
    sqs.send(connected.sqs, queue, message)
    told = {"run": runs[0], "message": message}
    _print(jsonlib.dumps(told) if json else f"asked {runs[0]} to stop")


@task(
    despite_files=True,
    help={"json": "print one JSON object to stdout, and nothing else", **CLOUD_HELP},
)
def status(c: Context, cloud: str = "", region: str = "", json: bool = False) -> None:
    """List the live instances of CND, and the runs on this disk."""
    connected = _connected(cloud, region)
    listed = ec2.find(connected.ec2, states=ec2.ALL) if connected else []
    found = run_status.survey(listed, connected)
    _print(jsonlib.dumps(found.to_json()) if json else found.text())


@task(
    despite_files=True,
    letters={"difficulty": "d"},
    help={
        "nonce": "the nonce to check",
        "difficulty": "D, leading zero hex digits of the hash, 0 to 64",
        "block": f"the block's text ({worker.DEFAULT_BLOCK})",
        "json": "print one JSON object to stdout, and nothing else",
    },
)
def verify(
    c: Context,
    nonce: str = "",
    difficulty: str = "",
    block: str = "",
    json: bool = False,
) -> None:
    """Print the hash of a nonce and whether it is golden (exit 0 or 1), offline."""
    example = "for example: fab verify --nonce 116 --d 2"
    value = arguments.whole(nonce, "--nonce", 0, worker.MAX_NONCES - 1, example)
    plan = Plan(
        difficulty=_difficulty(difficulty, example),
        instances=1,
        time_limit=1,
        block=block,
        nonces=worker.MAX_NONCES,
    )
    digest = worker.digest(plan.block, value)
    golden = worker.is_golden(digest, plan.difficulty)
    if json:
        _print(jsonlib.dumps({"nonce": value, "hash": digest, "golden": golden}))
    else:
        verdict = "golden" if golden else "not golden"
        _print(f"{digest}\n{value} is {verdict} at difficulty {plan.difficulty}")
    if not golden:
        raise Exit(code=1)


@task(
    positional=["action", "what", "kind"],
    help={
        "action": "up, down, status or fault",
        "what": "fault: an API action (RunInstances), an instance id, or the place "
        "of one in the next launch; none: list the faults",
        "kind": "fault of a host: never-boots, kill, freeze, cut ...",
        "code": "fault: the error code of the answer",
        "http": "fault: its HTTP status",
        "times": "fault: how many calls it strikes, or forever (1)",
        "skip": "fault: how many calls pass first (0)",
        "delay": "fault: seconds before the answer",
        "reset": "fault: reset the connection instead of answering",
        "lost_reply": "fault: do what was asked, then reset the connection",
        "at_most": "fault of RunInstances: launch no more than that",
        "seconds": "fault of a host: for how long, or when",
        "clear": "fault: forget all",
        "hosts": "up: what instances are: process, or vm for real machines (qemu)",
        "json": "print one JSON object to stdout, and nothing else",
    },
)
def local(
    c: Context,
    action: str = "",
    what: str = "",
    kind: str = "",
    code: str = "",
    http: str = "",
    times: str = "",
    skip: str = "",
    delay: str = "",
    reset: bool = False,
    lost_reply: bool = False,
    at_most: str = "",
    seconds: str = "",
    clear: bool = False,
    hosts: str = "",
    json: bool = False,
) -> None:
    """Start, stop, describe or disturb the local cloud: `fab local up`."""
    if action == "fault":
        given = {
            "kind": kind,
            "code": code,
            "http": http,
            "times": times,
            "skip": skip,
            "delay": delay,
            "reset": reset,
            "lost_reply": lost_reply,
            "at_most": at_most,
            "seconds": seconds,
        }
        _local_fault(what, {k: v for k, v in given.items() if v}, clear, json)
        return
    actions: dict[str, Callable[[], None]] = {
        "up": lambda: _local_up(hosts, json),
        "down": lambda: _local_down(json),
        "status": lambda: _local_status(json),
    }
    arguments.choice(action, "fab local", (*actions, "fault"))
    actions[action]()


def _local_up(hosts: str, json: bool) -> None:
    endpoint = local_cloud.up(hosts=hosts, say=_say)
    if json:
        _print(jsonlib.dumps(_standing(endpoint)))
        return
    _say(f"the local cloud is up; it keeps its files in {endpoint.folder}")
    _say("for another program, in this or any shell:")
    _print("\n".join(local_cloud.exports(endpoint)))


def _local_fault(what: str, fields: dict[str, object], clear: bool, json: bool) -> None:
    """Lay a fault, or list or forget them all."""
    endpoint = local_cloud.status()
    if endpoint is None:
        hint = "`fab local up` starts it"
        raise UsageError("the local cloud is down", hint=hint)
    if clear:
        count = local_cloud.clear_faults(endpoint)
        told = {"forgotten": count}
        _print(jsonlib.dumps(told) if json else f"{count} faults forgotten")
    elif what:
        of_host = what.isdecimal() or what.startswith("i-")
        name = "host" if of_host else "action"
        _print(jsonlib.dumps(local_cloud.lay_fault(endpoint, {name: what, **fields})))
    elif json:
        _print(jsonlib.dumps({"faults": local_cloud.faults_laid(endpoint)}))
    else:
        for fault in local_cloud.faults_laid(endpoint):
            _print(jsonlib.dumps(fault))


def _local_down(json: bool) -> None:
    was_up = local_cloud.down()
    told = "the local cloud is down" if was_up else "it was not up"
    _print(jsonlib.dumps({"up": False, "was_up": was_up}) if json else told)


def _standing(endpoint: local_cloud.Endpoint) -> dict[str, object]:
    """Return what there is to say of a local cloud that is up."""
    return {
        "up": True,
        "url": endpoint.url,
        "pid": endpoint.pid,
        "folder": str(endpoint.folder),
        "environment": local_cloud.environment(endpoint),
        **local_cloud.summary(endpoint),
    }


def _local_status(json: bool) -> None:
    endpoint = local_cloud.status()
    if json:
        _print(jsonlib.dumps(_standing(endpoint) if endpoint else {"up": False}))
        return
    if not endpoint:
        _print("the local cloud is down")
        return
    _print(f"the local cloud is up at {endpoint.url} (process {endpoint.pid})")
    for name, value in local_cloud.summary(endpoint).items():
        _print(f"{name}: {value}")


def _connected(cloud: str, region: str) -> clouds.Cloud | None:
    """Return the cloud that is there, and say which one."""
    connected = clouds.connect(cloud, region)
    _say(connected.title if connected else clouds.DOWN)
    return connected


def _tell_runs(cloud: clouds.Cloud, run: str, reason: str) -> Iterator[str]:
    """Let orchestrators that still follow a run know why it ends; yield those runs."""
    for name in [run] if run else sqs.runs(cloud.sqs):
        if queue := sqs.url(cloud.sqs, name):
            yield name
            sqs.send(cloud.sqs, queue, reason)


def _print(text: str) -> None:
    """Print data; a reader that went away is no failure of the command."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        nobody_reads()


def _say(text: str) -> None:
    print(terminal.wrapped(text, terminal.width_of(sys.stderr), 2), file=sys.stderr)


BEFORE = """\
cnd: blockchain proof of work in the cloud.  N machines search, the first golden nonce
stops all, nothing is left running.

    cnd start --t 200 --d 2 --n 8     8 instances, 200 s at most, 2 zero hex digits
    cnd COMMAND --help                what a command takes"""
GROUPS = {
    "Before": (plan, doctor, config),
    "The run": (start, status, stop, attach, scram),
    "After": (report, list_runs, logs, export, verify, clean),
    "Without an account": (local, bench),
}
AFTER = """\
Data goes to stdout, what happens to stderr; --json prints one object.  Without AWS
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
        executor_class=Executor,
        config_class=Config,
    )


def main() -> None:
    """Run the `cnd` program."""
    collect_rarely()
    standard_streams.prepare()
    folders.name_user()
    with left_at_once():
        program().run()
