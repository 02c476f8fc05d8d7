"""The commands that look at a run: report, runs, logs, export.

One rule: nothing here changes a run; and whatever fails in drawing one's report costs
the report, never the run's answer or its exit status.
"""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import io
import json as jsonlib
import os
import re
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit

from cnd import s3logs
from cnd.cli import arguments
from cnd.cli.program import shown, task
from cnd.cloud import connection as clouds
from cnd.errors import CloudError, CndError, UsageError
from cnd.model import system_log
from cnd.model.events import Event, harmless
from cnd.model.format import duration
from cnd.model.run_name import is_run
from cnd.run import order
from cnd.run.journal import EVENTS, ORDER, RESULT, Journal, runs
from cnd.run.log_follower import Follower
from cnd.system import private_files, small_files
from cnd.system.folders import expanded
from cnd.view import write_report
from cnd.view.instance_history import PHASES, InstanceHistory
from cnd.view.timeline import timeline

JSON_HELP = "print one JSON object to stdout, and nothing else"
RUN_HELP = "its name, or the beginning or end of it; default: the newest"
PATIENCE = 60.0  # seconds until a report that is not there is given up
LOOK = 0.2  # seconds between two looks at a run's events
MOST_LOG = 2 * system_log.MOST  # bytes of a log here: what is kept, a note, and more
MOST_BROUGHT = 256 << 20  # bytes of the events of a run that is brought from S3
NO_REPORT = "CND_REPORT"  # "0": a run writes no report


# --- at the end of a run


@contextlib.contextmanager
def reported(journal: Journal, cloud: clouds.Cloud, *, wanted: bool) -> Iterator[None]:
    """Have the report of a run written and uploaded after the block, however it ends.

    What fails there is one line on stderr.  An error of the block is told before.
    """
    try:
        yield
    except CndError as error:
        told = shown(error)
        print(told.message, file=sys.stderr)  # two lines, and harmless already
        raise Exit(code=told.code) from error
    finally:
        wanted = wanted and os.environ.get(NO_REPORT) != "0"
        if wanted and (trouble := _report(journal, cloud)):
            _say(f"{trouble}; `fab report {journal.run}` tries again")


def _report(journal: Journal, cloud: clouds.Cloud) -> str:
    """Write and upload a report; return what went wrong, or ""."""
    program = [sys.executable, "-m", write_report.__name__, journal.run]
    package = str(Path(__file__).resolve().parents[1])
    search = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            program,
            cwd=journal.folder,  # `-m` finds modules in the working folder first
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        return f"no report: {type(error).__name__}"
    told = done.stderr.strip().splitlines()
    if done.returncode:
        return f"no report: {told[-1] if told else f'status {done.returncode}'}"
    if told:
        _say(told[-1])
    return _uploaded(journal, cloud)


def _uploaded(journal: Journal, cloud: clouds.Cloud) -> str:
    """Put a report beside the logs in S3; return what went wrong, or ""."""
    kept = order.kept(journal)
    paths = [journal.folder / write_report.REPORT]
    paths += sorted((journal.folder / write_report.FIGURES).glob("*.???"))
    files = {path.relative_to(journal.folder).as_posix(): path for path in paths}
    if kept is None:
        return ""
    try:
        bucket, owner = kept.provision.bucket, kept.provision.owner
        s3logs.check_finished(cloud.s3, bucket, owner)
        failures = s3logs.upload(cloud.s3, bucket, journal.run, files, owner=owner)
    except KeyboardInterrupt:
        return "the report is not in S3: interrupted"
    except CloudError as error:
        return f"the report is not in S3: {error}"
    for failure in failures.values():
        return f"the report is not in S3: {failure}"
    return ""


# --- report


@task(
    positional=["run"],
    help={"run": RUN_HELP, "open": "show it in the browser", "json": JSON_HELP},
)
def report(c: Context, run: str = "", open: bool = False, json: bool = False) -> None:
    """Write the report of a run, with pictures, and print where it is."""
    journal = chosen(run)
    files = write_report.write(journal)
    _complain(journal)
    path = files.pop(write_report.REPORT)
    if json:
        figures = [str(path) for path in files.values()]
        found = {"run": journal.run, "report": str(path), "figures": figures}
        print(jsonlib.dumps(found))
    else:
        print(path)
    if open and not webbrowser.open(path.as_uri()):
        raise UsageError("no browser here can be opened", hint=f"look at {path}")


def chosen(text: str) -> Journal:
    """Return the run that `text` means: its name, or the only one that fits.

    A run that was started elsewhere is brought from the account's bucket.

    Raises:
        UsageError: there is none, or more than one.
    """
    names = runs()
    if is_run(text) and text not in names and _brought(Journal(text)):
        return Journal(text)
    return Journal(pick(names, text))


def _brought(journal: Journal) -> bool:
    """Bring events and result of a run that is over from S3; return whether it is."""
    if (place := _kept_at(journal)) is None:
        return False
    cloud, bucket = place
    try:
        found = {
            name: s3logs.fetch(cloud.s3, bucket, journal.run, name, most=MOST_BROUGHT)
            for name in (EVENTS, RESULT)
        }
    except CloudError as error:
        _say(f"run {journal.run} is not here, and S3 could not be asked: {error}")
        return False
    if None in found.values():
        return False
    _say(f"run {journal.run} was brought from s3://{bucket}")
    journal.create()
    for name, data in found.items():
        private_files.write(journal.folder / name, data or b"")
    return True


def _kept_at(journal: Journal) -> tuple[clouds.Cloud, str] | None:
    """Return where in S3 a run's files are, or None; say why, if that is known."""
    kept, result = order.kept(journal), journal.result() or {}
    place = (
        (kept.cloud, kept.region)
        if kept
        else (
            result.get("cloud", ""),
            result.get("region", ""),
        )
    )
    try:
        cloud = clouds.connect(*place)
    except CloudError as error:
        _say(f"S3 could not be asked: {error}")
        return None
    if cloud is None or (kept and cloud.account != kept.account):
        if kept:
            _say("what is in S3 is in a cloud that is not here")
        return None
    bucket = kept.provision.bucket if kept else ""
    return cloud, bucket or s3logs.bucket_name(cloud.account, cloud.region)


def pick(names: list[str], text: str) -> str:
    """Return the name that begins or ends with `text`; the last one if it is empty."""
    if text in names:
        return text
    fits = [name for name in names if name.startswith(text) or name.endswith(text)]
    if fits and not text:
        return fits[-1]
    if len(fits) != 1:
        message = f"{len(fits)} runs are called {text!r}" if fits else ""
        none = f"no run on this disk is called {text!r}" if text else "there is no run"
        raise UsageError(message or none, hint="`fab runs` lists them")
    return fits[0]


# --- runs


@dataclass(frozen=True)
class PastRun:
    """A run as `fab runs` tells it; None: not known."""

    run: str
    started: str | None  # UTC, ISO 8601
    difficulty: int | None
    instances: int | None
    time_limit: float | None  # seconds
    outcome: str  # as in results; or "going on", "aborted", "unfinished"
    nonce: int | None
    seconds: float | None  # in all
    usd: float | None
    cloud: str | None


@task(name="runs", help={"json": JSON_HELP})
def list_runs(c: Context, json: bool = False) -> None:
    """List the runs on this disk, the newest last."""
    journals = [Journal(name) for name in runs()]
    found = [_past(journal) for journal in journals]
    for journal in journals:
        _complain(journal)
    if json:
        print(jsonlib.dumps({"runs": [vars(each) for each in found]}))
        return
    print("\n".join(_columns([HEAD, *map(_cells, found)])))


HEAD = ("run", "started", "D", "N", "T", "outcome", "nonce", "time", "USD", "cloud")


def _complain(journal: Journal) -> None:
    """Say what was wrong with the files of a run that were read."""
    if journal.complaint:
        _say(f"run {journal.run}: {journal.complaint}")


def _past(journal: Journal) -> PastRun:
    result = journal.result()
    first = next(journal.events(), None)
    wish = first.fields if first and first.kind == "run.started" else {}
    began = dt.datetime.fromtimestamp(first.time, dt.timezone.utc) if first else None
    outcome = "going on" if journal.is_followed else ""
    if not outcome:
        outcome = str(result.get("outcome")) if result else _ended(journal)
    result = result or {}
    kept = order.kept(journal)
    return PastRun(
        run=journal.run,
        started=began.isoformat(timespec="seconds") if began else None,
        difficulty=None if wish.get("script") else wish.get("difficulty"),
        instances=wish.get("instances"),
        time_limit=wish.get("time_limit"),
        outcome=outcome,
        nonce=result.get("nonce"),
        seconds=(result.get("seconds") or {}).get("total"),
        usd=result.get("usd"),
        cloud=result.get("cloud") or (kept.cloud if kept else None),
    )


def _ended(journal: Journal) -> str:
    return timeline(journal.run, journal.events(), None).outcome


def _cells(past: PastRun) -> tuple[str, ...]:
    when = dt.datetime.fromisoformat(past.started).astimezone() if past.started else ""
    limit = f"{past.time_limit:g} s" if past.time_limit is not None else None
    cost = f"{past.usd:.4f}" if past.usd is not None else None
    shown = (past.difficulty, past.instances, limit, past.outcome, past.nonce)
    return (
        past.run,
        f"{when:%Y-%m-%d %H:%M}" if when else "-",
        *("-" if value is None else str(value) for value in shown),
        duration(past.seconds),
        cost or "-",
        past.cloud or "-",
    )


def _columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield lines whose cells stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


# --- logs


@task(
    positional=["run"],
    help={
        "run": RUN_HELP,
        "instance": "only that of instance i",
        "follow": "print them as they grow, until the run ends: 16 at most",
        "events": "print the run's events instead; with --follow: as they come",
        "json": "logs: one JSON object; with --follow or --events: one a line",
    },
)
def logs(
    c: Context,
    run: str = "",
    instance: str = "",
    follow: bool = False,
    events: bool = False,
    json: bool = False,
) -> None:
    """Print the system logs of a run's instances, from S3 where they are not here."""
    journal = chosen(run)
    only = None
    if instance:
        example = "for example: fab logs --instance 3"
        only = arguments.whole(instance, "--instance", 0, 10**6, example)
    if events:
        _events(journal, only, json, follow=follow)
        return
    if follow and _followed(journal, only, json):
        return
    found = _logs(journal, only)
    if json:
        told = {name: text.decode("utf-8", "replace") for name, text in found.items()}
        print(jsonlib.dumps({"run": journal.run, "logs": told}))
        return
    for name, data in found.items():
        if len(found) > 1:
            print(f"==> {name} <==")
        _write(data)


def _logs(journal: Journal, only: int | None) -> dict[str, bytes]:
    """Return the logs by name; `UsageError` if there are none."""
    events = journal.events()
    wanted = {e.index for e in events if e.kind == "instance.launched"}
    found, missing = {}, []
    for index in sorted(i for i in wanted if i is not None and only in (None, i)):
        path = journal.log(f"Instance{index}")
        try:
            found[path.name] = small_files.read(path, MOST_LOG)
        except FileNotFoundError:
            missing.append(path.name)
        except OSError as error:
            _say(f"{path} cannot be read: {error.strerror}")
            missing.append(path.name)
    if missing:
        found |= _fetched(journal, missing)
        if lost := [name for name in missing if name not in found]:
            _say(f"not here and not in S3: {' '.join(lost)}")
    if not found:
        which = "" if only is None else f" of instance {only}"
        message = f"run {journal.run} has no log{which}, here or in S3"
        raise UsageError(message, hint=f"`fab logs {journal.run} --events`: its events")
    return found


def _fetched(journal: Journal, names: list[str]) -> dict[str, bytes]:
    """Return those logs that are in S3; where it cannot be asked, say so."""
    if (place := _kept_at(journal)) is None:
        return {}
    cloud, bucket = place

    def fetched(name: str) -> bytes | None:
        place = cloud.s3, bucket, journal.run, s3logs.LOGS + name
        found = s3logs.fetch_log(*place, most=system_log.MOST)
        return found and found[0]

    try:
        told = {name: fetched(name) for name in names}
    except CloudError as error:
        _say(f"{len(names)} logs could not be fetched: {error}")
        return {}
    return {name: data for name, data in told.items() if data is not None}


def _write(data: bytes) -> None:
    """Print a log as it is, but let it give no orders to a terminal."""
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    print(harmless_log(data.decode("utf-8", "replace")), end="")


def harmless_log(text: str) -> str:
    """Return `text` without control characters but tabs and ends of lines."""
    return re.sub(r"[^\t\n]+", lambda part: harmless(part[0]), text)


def _followed(journal: Journal, only: int | None, json: bool) -> bool:
    """Follow the logs of a run that goes on; return whether there was anything."""
    while (kept := order.kept(journal)) is None and journal.is_followed:
        if ORDER in journal.damage:
            break
        time.sleep(LOOK)  # it has just begun
    if kept is None or journal.is_over:
        return False
    plan, provision = kept.plan, kept.provision
    if plan.unreached:
        _say("nobody reaches these instances over SSH: these are the run's events")
        _events(journal, only, json, follow=True)
        return True
    cloud = clouds.required(clouds.connect(kept.cloud, kept.region))
    several = plan.instances > 1 and only is None
    follower = Follower(journal, cloud, plan, provision.login, only=only, say=_say)
    shown = False
    with contextlib.closing(follower.lines()) as lines:
        for line in lines:
            shown = True
            who = f"{line.name} | " if several else ""
            text = line.text if not sys.stdout.isatty() else harmless(line.text)
            told = jsonlib.dumps({"instance": line.name, "line": line.text})
            print(told if json else f"{who}{text}", flush=True)
    return shown


def _events(journal: Journal, only: int | None, json: bool, *, follow: bool) -> None:
    """Print the events of a run; or as they come, until nobody follows it any more."""
    shown = 0
    while True:
        live = journal.is_followed  # before the look: what was last is seen, too
        events = list(journal.events())
        for event in events[shown:]:
            if only is None or event.index == only:
                print(event.to_json() if json else _line(event), flush=True)
        shown = len(events)
        if not (live and follow):
            _complain(journal)
            return
        time.sleep(LOOK)


def _line(event: Event) -> str:
    """Return an event as a line for people."""
    when = dt.datetime.fromtimestamp(event.time).strftime("%H:%M:%S.%f")[:-3]
    who = f"Instance{event.index}" if event.index is not None else "-"
    fields = {k: v for k, v in event.fields.items() if k not in ("run", "token")}
    told = " ".join(f"{name}={value}" for name, value in fields.items())
    return harmless(f"{when}  {who:<12} {event.kind:<20} {told}").rstrip()


# --- export

COLUMNS = (
    *("run", "index", "id", "type", "zone", "address", "kernel", "end"),
    *("tested", "nonces_per_second", "stop_latency_seconds"),
    *(f"{phase.replace(' ', '_')}_seconds" for phase in PHASES),
)


@task(
    positional=["run"],
    help={
        "run": RUN_HELP,
        "format": "json (result, events, phases) or csv (a row for each instance)",
        "output": "the file to write; default: stdout",
        "json": "the same as --format json",
    },
)
def export(
    c: Context,
    run: str = "",
    format: str = "",
    output: str = "",
    json: bool = False,
) -> None:
    """Print a run for other programs: everything as JSON, or its instances as CSV."""
    format = format or "json"
    example = "for example: fab export --format csv"
    arguments.choice(format, "--format", ("json", "csv"), example)
    if json and format != "json":
        raise UsageError("--json and --format csv exclude each other")
    journal = chosen(run)
    text = as_json(journal) if format == "json" else as_csv(journal)
    _complain(journal)
    if not output:
        print(text, end="")
        return
    try:
        expanded(output).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        message = f"--output {output!r} cannot be written: {error.strerror}"
        raise UsageError(message) from error


def as_json(journal: Journal) -> str:
    """Return a run as one JSON object; see docs/report.md."""
    line = timeline(journal.run, journal.events(), journal.result())
    whole = {
        "run": line.run,
        "outcome": line.outcome,
        "result": journal.result(),
        "instances": [_exported(line.run, life) for life in line.instances],
        "events": [jsonlib.loads(event.to_json()) for event in line.events],
    }
    # A worker may claim NaN, which Python writes and nobody else reads.
    told = jsonlib.loads(jsonlib.dumps(whole), parse_constant=lambda _: None)
    return jsonlib.dumps(told, indent=1) + "\n"


def as_csv(journal: Journal) -> str:
    """Return the instances of a run as CSV (RFC 4180); see docs/report.md."""
    line = timeline(journal.run, journal.events(), journal.result())
    file = io.StringIO()
    table = csv.DictWriter(file, COLUMNS)
    table.writeheader()
    table.writerows(_exported(line.run, life) for life in line.instances)
    return file.getvalue()


def _exported(run: str, life: InstanceHistory) -> dict[str, Any]:
    """Return an instance by the names of `COLUMNS`; empty or null: not known."""
    seconds = {
        f"{phase.replace(' ', '_')}_seconds": round(life.seconds(phase), 3)
        for phase in PHASES
    }
    return {
        "run": run,
        "index": life.index,
        "id": life.id,
        "type": life.type,
        "zone": life.zone,
        "address": life.address,
        "kernel": life.kernel,
        "end": life.end,
        "tested": life.tested if life.is_counted else None,
        "nonces_per_second": round(life.rate, 1) if life.rate else None,
        "stop_latency_seconds": None if life.stop is None else round(life.stop, 3),
        **seconds,
    }


def _say(text: str) -> None:
    print(harmless(text), file=sys.stderr)
