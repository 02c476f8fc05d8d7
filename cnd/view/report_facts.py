"""The contents of a report: what is known of a run, as text.

One rule: pure; a timeline goes in, text comes out.  The text is neither escaped nor
bounded: both are done by the page that shows it.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from statistics import median
from typing import Any

from cnd.model.events import Event, amount
from cnd.model.format import duration
from cnd.model.format import number as short
from cnd.view.instance_history import PHASES, InstanceHistory, phase_seconds
from cnd.view.timeline import Timeline, list_usd

# Kinds of events that are listed: what is not part of an undisturbed run.
REMARKABLE = (
    *("run.attached", "run.stop_requested", "run.aborted"),
    *("instance.lost", "host.failed", "host.reconnecting", "host.returned"),
    *("class.handed_over", "worker.failed", "worker.refuted", "worker.noise"),
    *("log.failed", "cloud.trouble"),
)
ENDINGS = {
    "timeout": "Time limit reached",
    "stopped": "Stopped on request",
    "incomplete": "Incomplete: hosts failed",
    "aborted": "Broken off",
    "unfinished": "Not ended yet",
}


@dataclass(frozen=True)
class Heading:
    """What stands at the top of the report."""

    sought: str  # what the run looked for
    found: object  # None: nothing
    text: str  # both in one line
    digest: str  # of a golden nonce, hexadecimal; else ""
    zeros: int  # leading zero digits of it that were asked for
    size: str  # how many instances
    type: str  # of the instances
    task: str
    started: str  # date and time


@dataclass(frozen=True)
class Tile:
    """One figure of the run, large, with a note below."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class PhaseRow:
    """How long instances were in one phase."""

    name: str  # one of PHASES
    text: str  # what it is
    count: int  # of instances
    shortest: str
    median: str
    longest: str


@dataclass(frozen=True)
class HistoryRow:
    """One instance, as a row of the report."""

    name: str
    log: str  # the file beside the report; "": there is none
    id: str
    zone: str
    address: str
    boot: str
    push: str
    search: str
    tested: str
    rate: str  # nonces/s
    kernel: str
    stop: str
    end: str


@dataclass(frozen=True)
class Remark:
    """One event that is not part of an undisturbed run."""

    when: str  # since the start of the run
    who: str
    what: str
    text: object  # of unknown origin


def heading(line: Timeline) -> Heading:
    """Return what the run was, and what came of it."""
    result, request = line.result, line.request
    what, found = _answer(line)
    if found is not None:
        text = f"{what} {found}"
    elif line.outcome == "exhausted":
        text = f"No {what.lower()} exists"
    else:
        text = ENDINGS.get(line.outcome, line.outcome)
    is_script = bool(request.get("script"))
    when = dt.datetime.fromtimestamp(line.began).astimezone()
    return Heading(
        sought=what,
        found=found,
        text=text,
        digest=str(result.get("hash") or ""),
        zeros=int(result.get("difficulty") or 0),
        size=_size(line),
        type=str(request.get("type", "?")),
        task="a worker of one's own"
        if is_script
        else f"difficulty {request.get('difficulty')}",
        started=f"{when:%Y-%m-%d %H:%M:%S %Z}",
    )


def _answer(line: Timeline) -> tuple[str, object]:
    """Return what was looked for, and what was found of it, or None."""
    result = line.result
    if not line.request.get("script"):
        return "Golden nonce", result.get("nonce")
    what = "Answer" if result.get("verified") in (True, None) else "Unverified answer"
    return what, result.get("answer") or result.get("nonce")


def tiles(line: Timeline) -> list[Tile]:
    """Return the six figures that matter most."""
    took = line.result.get("seconds") or {}
    rate = amount(line.result.get("hash_rate"))
    stops = line.stops
    last = f"the last of {len(stops)}" if stops else "no worker had to be stopped"
    search = duration(amount(took.get("search")))
    return [
        Tile("total", duration(line.seconds), "from the command to the end"),
        Tile("search", search, "first worker to decision"),
        Tile("tested", short(line.tested) if line.counted else "-", "nonces"),
        Tile("hash rate", short(rate) if rate else "-", "nonces/s together"),
        Tile("stop", duration(stops[-1].stop if stops else None), last),
        Tile("price", *_price(line)),
    ]


def _price(line: Timeline) -> tuple[str, str]:
    """Return what the run cost, and how that is known or meant."""
    usd, listed = amount(line.result.get("usd")), list_usd(line)
    so_far = "so far, " if line.result.get("left_running") else ""
    if line.result.get("cloud") == "local" or not line.result:
        on_aws = f"{_usd(listed)} on AWS" if listed else "on the local cloud"
        return ("nothing" if usd == 0 else "-"), on_aws
    if usd is None:
        return "-", "a price is not known"
    return _usd(usd), f"{so_far}by the price before the launch"


def _usd(price: float) -> str:
    return f"${price:.4f}"


def note(name: str, line: Timeline) -> str:
    """Return what the figure called `name` shows, in a sentence, or ""."""
    if name == "timeline" and line.searching is not None:
        searched = sum(each.seconds("search") for each in line.instances)
        whole = sum(span.seconds for each in line.instances for span in each.spans)
        return (
            f"{100 * searched / (whole or 1):.0f} % of all instances' time was search; "
            f"the first worker began after {duration(line.searching)}."
        )
    if name == "coverage":
        size = sum(each.size for each in line.classes)
        share = 100 * line.tested / (size or 1)
        least = "" if line.counted else "at least "
        return f"Together {least}{share:.3g} % of {short(size)} nonces."
    if name == "bill":
        usd, listed = amount(line.result.get("usd")), list_usd(line)
        if usd or line.result.get("cloud") == "aws":
            return f"Together {_usd(usd)}." if usd else ""
        return f"On AWS: {_usd(listed)}, by list price." if listed else ""
    if name == "stops":
        stops = [instance.stop or 0.0 for instance in line.stops]
        middle = duration(stops[(len(stops) - 1) // 2])
        return (
            f"Half of {len(stops)} within {middle}, all within {duration(stops[-1])}."
        )
    return ""


def phase_rows(line: Timeline) -> list[PhaseRow]:
    """Return a row for each phase that there was."""
    return [
        PhaseRow(
            name=name,
            text=PHASES[name],
            count=len(seconds),
            shortest=duration(seconds[0]),
            median=duration(median(seconds)),
            longest=duration(seconds[-1]),
        )
        for name, seconds in phase_seconds(line.instances).items()
    ]


def facts(line: Timeline) -> list[tuple[str, str]]:
    """Return what is known of a run, as names and text."""
    result, request = line.result, line.request
    ended = sum(instance.end != "not seen terminated" for instance in line.instances)
    script, verified = request.get("script"), result.get("verified")
    difficulty = None if script else request.get("difficulty")
    found = [
        ("outcome", f"{line.outcome}: {line.reason}"),
        ("nonce", result.get("nonce")),
        ("hash", result.get("hash")),
        ("answer", result.get("answer")),
        ("verified", None if verified is None else "yes" if verified else "NO"),
        ("found by", _finder(result)),
        ("block", request.get("block")),
        ("difficulty", difficulty),
        ("nonce space", _counted(request.get("nonces"))),
        ("time limit", _limit(request.get("time_limit"))),
        ("instances", f"{_size(line)} x {request.get('type')}"),
        ("cloud", _cloud(result)),
        ("kernel", result.get("kernel")),
        ("tested", _tested(line)),
        ("resumes", " → ".join(map(str, result.get("chain") or ()))),
        ("tested before", _counted(result.get("tested_before") or None)),
        ("tested in all", _counted(result.get("tested_in_all") or None)),
        ("tested twice", _repeated(result)),
        ("chance of a find by then", _chance(difficulty, line.tested)),
        ("times", _times(result)),
        ("price", ", ".join(_price(line))),
        ("terminated", f"{ended} of {len(line.instances)} instances launched"),
        ("left running", result.get("left_running")),
        ("logs", (result.get("logs") or {}).get("s3")),
    ]
    return [(name, str(value)) for name, value in found if value not in (None, "")]


def _repeated(result: Mapping[str, Any]) -> str:
    """Return how much was tested twice, and how much may have been."""
    known, most = result.get("repeated") or 0, result.get("repeated_at_most") or 0
    more = f"; {most:,} at most" if most > known else ""
    return f"{known:,}{more}" if known or more else ""


def _tested(line: Timeline) -> str:
    return f"{line.tested:,} nonces, each counted once" if line.counted else "-"


def _counted(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _limit(value: object) -> str:
    return f"{value:g} s" if isinstance(value, (int, float)) else ""


def _size(line: Timeline) -> str:
    """Return how many instances there were, and how many were asked for."""
    wanted = line.request.get("instances", "?")
    had = line.result.get("instances", wanted)
    return f"{had}" if had == wanted else f"{had} (of {wanted})"


def _finder(result: Mapping[str, Any]) -> str:
    if result.get("index") is None:
        known = result.get("nonce") is not None and result.get("chain")
        return "a run that this one resumes" if known else ""
    return f"Instance{result['index']} ({result.get('instance_id')})"


def _cloud(result: Mapping[str, Any]) -> str:
    if not result:
        return ""
    return f"{result.get('cloud')}, {result.get('region')}"


def _chance(difficulty: object, tested: int) -> str:
    if not isinstance(difficulty, int) or not tested:
        return ""
    if difficulty == 0:
        return "100 %"
    chance = -math.expm1(tested * math.log1p(-(16.0**-difficulty)))
    return f"{100 * chance:.3g} %"


def _times(result: Mapping[str, Any]) -> str:
    took = result.get("seconds") or {}
    names = ("boot", "search", "stop", "logs", "scram", "total")
    known = [name for name in names if took.get(name) is not None]
    return " · ".join(f"{name} {duration(amount(took[name]))}" for name in known)


def history_row(instance: InstanceHistory, logs: Set[str]) -> HistoryRow:
    """Return an instance as a row; `logs`: the names of the files in ``logs``."""
    name = f"Instance{instance.index}"
    return HistoryRow(
        name=name,
        log=f"logs/{name}.log" if f"{name}.log" in logs else "",
        id=instance.id,
        zone=instance.zone,
        address=instance.address,
        boot=duration(instance.seconds("boot") or None),
        push=duration(instance.seconds("push") or None),
        search=duration(instance.seconds("search") or None),
        tested=f"{instance.tested:,}" if instance.is_counted else "-",
        rate=short(instance.rate) if instance.rate else "-",
        kernel=instance.kernel,
        stop=duration(instance.stop),
        end=instance.end,
    )


def remarks(line: Timeline) -> list[Remark]:
    """Return what happened besides the usual."""
    return [
        Remark(
            when=f"{event.time - line.began:.2f} s",
            who=f"Instance{event.index}" if event.index is not None else "",
            what=event.kind.replace(".", " ").replace("_", " "),
            text=_text(event),
        )
        for event in line.events
        if event.kind in REMARKABLE
    ]


def _text(event: Event) -> object:
    fields = event.fields
    names = ("reason", "text", "state", "start")
    return next((fields[name] for name in names if fields.get(name) is not None), "")
