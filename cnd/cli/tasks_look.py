"""The commands that show a run: report, runs, logs, export.

One rule: no command here changes a run.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json as jsonlib
import re
import sys
import time
import webbrowser
from dataclasses import dataclass

from invoke.context import Context

from cnd.cli.options import ExportOptions, LogsOptions, ReportOptions, RunsOptions
from cnd.cli.output import say
from cnd.cli.task import task, tell_failed_reports
from cnd.cloud import connection as clouds
from cnd.errors import UsageError
from cnd.model.events import Event, printable_line
from cnd.model.format import duration, number, table
from cnd.run import find_run, order, past_run, pending_reports, stored_files, successors
from cnd.run.journal import ORDER, Journal, runs
from cnd.run.log_follower import Follower
from cnd.system.folders import expanded
from cnd.view import report_process, write_report
from cnd.view.export import as_csv, as_json
from cnd.view.timeline import timeline

LOOK = 0.2  # seconds between two looks at a run's events


# --- report


@task(ReportOptions)
def report(c: Context, options: ReportOptions) -> None:
    """Write the report of a run, with pictures, and print where it is."""
    journal = find_run.chosen(options.run, _say)
    drawn = pending_reports.settled(journal.run, report_process.LIMIT)
    tell_failed_reports()  # of what this command waited for
    files = write_report.written(journal) if drawn else write_report.write(journal)
    _complain(journal)
    path = files.pop(write_report.REPORT)
    if options.json:
        figures = [str(path) for path in files.values()]
        found = {"run": journal.run, "report": str(path), "figures": figures}
        print(jsonlib.dumps(found))
    else:
        print(path)
    if options.open and not webbrowser.open(path.as_uri()):
        raise UsageError("no browser here can be opened", hint=f"look at {path}")


# --- runs


@dataclass(frozen=True)
class PastRun:
    """A run as `fab runs` lists it; None: not known."""

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
    resumes: str | None  # the run that it goes on with
    left: int | None  # nonces, for `fab resume`; None: it cannot be resumed


@task(RunsOptions, name="runs")
def list_runs(c: Context, options: RunsOptions) -> None:
    """List the runs on this disk, the newest last."""
    names = runs()
    journals = [Journal(name) for name in names]
    gone_on = successors.newest(names)
    found = [_past(journal, journal.run in gone_on) for journal in journals]
    for journal in journals:
        _complain(journal)
    if options.json:
        print(jsonlib.dumps({"runs": [vars(each) for each in found]}))
        return
    print("\n".join(table([HEAD, *map(_cells, found)], ("<",), gap="  ")))


HEAD = (
    *("run", "started", "D", "N", "T", "outcome", "nonce", "left"),
    *("time", "USD", "cloud", "resumes"),
)


def _complain(journal: Journal) -> None:
    """Report what was wrong with the files of a run that were read."""
    if journal.complaint:
        _say(f"run {journal.run}: {journal.complaint}")


def _past(journal: Journal, gone_on: bool) -> PastRun:
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
        resumes=next(reversed(wish.get("chain", ())), None),
        left=None if gone_on else past_run.left(journal),
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
        "-" if past.left is None else number(past.left),
        duration(past.seconds),
        cost or "-",
        past.cloud or "-",
        past.resumes or "-",
    )


# --- logs


@task(LogsOptions)
def logs(c: Context, options: LogsOptions) -> None:
    """Print the system logs of a run's instances, from S3 where they are not here."""
    journal, only, json = (
        find_run.chosen(options.run, _say),
        options.instance,
        options.json,
    )
    if options.events:
        _events(journal, only, json, follow=options.follow)
        return
    if options.follow and _followed(journal, only, json):
        return
    found = stored_files.system_logs(journal, only, _say)
    if json:
        texts = {name: text.decode("utf-8", "replace") for name, text in found.items()}
        print(jsonlib.dumps({"run": journal.run, "logs": texts}))
        return
    for name, data in found.items():
        if len(found) > 1:
            print(f"==> {name} <==")
        _write(data)


def _write(data: bytes) -> None:
    """Print a log as it is; on a terminal without its control characters."""
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    print(harmless_log(data.decode("utf-8", "replace")), end="")


def harmless_log(text: str) -> str:
    """Return `text` without control characters but tabs and ends of lines."""
    return re.sub(r"[^\t\n]+", lambda part: printable_line(part[0]), text)


def _followed(journal: Journal, only: int | None, json: bool) -> bool:
    """Follow the logs of a run that goes on; return whether a line was printed."""
    while (kept := order.kept(journal)) is None and journal.is_followed:
        if ORDER in journal.damage:
            break
        time.sleep(LOOK)  # it has just begun
    if kept is None or journal.is_over:
        return False
    plan, provision = kept.plan, kept.provision
    if plan.without_ssh:
        _say("these instances cannot be reached over SSH: these are the run's events")
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
            text = line.text if not sys.stdout.isatty() else printable_line(line.text)
            record = jsonlib.dumps({"instance": line.name, "line": line.text})
            print(record if json else f"{who}{text}", flush=True)
    return shown


def _events(journal: Journal, only: int | None, json: bool, *, follow: bool) -> None:
    """Print the events of a run; with `follow` as they occur, while it is followed."""
    shown = 0  # bytes of them
    while True:
        live = journal.is_followed  # before the look: the last events are seen, too
        for end, event in journal.placed_events(shown):
            shown = end
            if only is None or event.index == only:
                print(event.to_json() if json else _line(event), flush=follow)
        if not (live and follow):
            _complain(journal)
            return
        time.sleep(LOOK)


def _line(event: Event) -> str:
    """Return an event as a line to read."""
    when = dt.datetime.fromtimestamp(event.time).strftime("%H:%M:%S.%f")[:-3]
    who = f"Instance{event.index}" if event.index is not None else "-"
    fields = {k: v for k, v in event.fields.items() if k not in ("run", "token")}
    details = " ".join(f"{name}={value}" for name, value in fields.items())
    return printable_line(f"{when}  {who:<12} {event.kind:<20} {details}").rstrip()


# --- export


@task(ExportOptions)
def export(c: Context, options: ExportOptions) -> None:
    """Print a run for other programs: everything as JSON, or its instances as CSV."""
    if options.json and options.format != "json":
        raise UsageError("--json and --format csv exclude each other")
    journal = find_run.chosen(options.run, _say)
    text = as_json(journal) if options.format == "json" else as_csv(journal)
    _complain(journal)
    if not options.output:
        print(text, end="")
        return
    try:
        expanded(options.output).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        message = f"--output {options.output!r} cannot be written: {error.strerror}"
        raise UsageError(message) from error


def _say(text: str) -> None:
    say(printable_line(text))
