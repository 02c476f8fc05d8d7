"""Plain-text progress output, one line per event; and the result as text.

One rule: progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TextIO

from cnd.model.events import Event, printable_line
from cnd.model.format import duration, number, table
from cnd.model.outcome import Ending
from cnd.model.plan import Plan
from cnd.model.result import Result
from cnd.model.search_state import SearchState
from cnd.view.terminal import NO_BREAK, STAMP, encoded, width_of, wrapped

REPEAT = 10.0  # seconds between two lines of progress
FEW = 16  # up to so many instances have lines of their own
TITLE = 15  # characters of a title in the result


class Narrator:
    """Writes a run to a text stream, as it happens."""

    def __init__(
        self,
        plan: Plan,
        stream: TextIO | None = None,
        *,
        past: Iterable[Event] = (),
        repeat: float = REPEAT,
    ) -> None:
        """Begin to write.

        Args:
            past: what happened before, of a run that is taken over.
            repeat: seconds between two lines of progress.
        """
        self._total = plan.instances
        self._stream = stream or sys.stderr
        self._repeat = repeat
        self._began = time.monotonic()
        self._drawn = self._began
        self._each = plan.instances <= FEW
        # Hosts, by kind: one that searches two classes has two logs pulled.
        self._hosts: dict[str, set[str | None]] = {kind: set() for kind in COUNTED}
        self._decided = False
        # The places of instances, where a class does not have the number of its own.
        self._places: dict[str | None, int | None] | None = {} if plan.work else None
        for event in past:
            self._count(event)

    def show(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        self._count(event)
        if event.kind == "run.started":  # before this view
            self._began -= max(0.0, time.time() - event.time)
        launched = self._seen("instance.launched")
        if event.kind == "logs.uploaded" and (logs := self._seen("log.pulled")):
            self._line(f"{logs} of {launched} logs here")
        if event.kind == "run.ended" and launched:
            ended = self._seen("instance.terminated")
            self._line(f"{ended} of {launched} instances terminated")
        if event.kind in EACH and not self._each and not _is_about_failure(event):
            return
        if event.kind == "run.stop_requested" and event.fields.get("by") == "signal":
            return  # `answer` has written it
        if self._places and event.kind.startswith(("worker.", "host.")):
            event = replace(event, index=self._places.get(event.host, event.index))
        if text := sentence(event):
            self._line(text)

    def tick(self, search: SearchState) -> None:
        """Write when the end is decided, and now and then how far the run is."""
        now = time.monotonic()
        if search.outcome and not self._decided:
            self._decided = True
            self._line(f"{search.outcome.ending.outcome}: {search.outcome.reason}")
        if now - self._drawn < self._repeat:
            return
        self._drawn = now
        self._line(self._progress(search))

    def answer(self, text: str) -> None:
        """Write at once that a signal has come, before what waits to be written."""
        with contextlib.suppress(OSError):
            line = f"{self._stamp()} {text}\n"
            os.write(self._stream.fileno(), encoded(line, self._stream))

    def close(self) -> None:
        """Leave the stream as it is."""

    def _count(self, event: Event) -> None:
        if event.kind in self._hosts:
            self._hosts[event.kind].add(event.host)
        if event.kind == "instance.launched" and self._places is not None:
            self._places[event.host] = event.index
        if event.kind == "fleet.reduced":
            self._total = event.fields.get("instances", self._total)

    def _seen(self, kind: str) -> int:
        return len(self._hosts[kind])

    def _line(self, text: str) -> None:
        line = f"{self._stamp()} {printable_line(text)}"
        self._write(wrapped(line, width_of(self._stream), STAMP) + "\n")

    def _write(self, text: str) -> None:
        """Write, where the stream is still read: a closed terminal stops no run."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()

    def _stamp(self) -> str:
        return f"[{time.monotonic() - self._began:6.2f} s]"

    def _progress(self, search: SearchState) -> str:
        """Return how far the run is, in less than a line."""
        total = self._total
        if search.outcome and (ended := self._seen("instance.terminated")):
            return f"{ended} of {total} instances terminated"
        if search.outcome:
            return f"ending: {self._seen('log.pulled')} of {total} logs here"
        if not search.tested:
            return f"{self._seen('instance.ready')} of {total} instances ready"
        return (
            f"{len(search.searching)} of {total} workers search: "
            f"{number(search.tested)} nonces, {number(search.rate)} nonces/s"
        )


def sentence(event: Event) -> str:
    """Return the line of an event; "" for an event that has none."""
    variants = VARIANTS.get(event.kind, {})
    text = next(
        (text for field, text in variants.items() if event.fields.get(field)),
        SENTENCES.get(event.kind),
    )
    if text is None:
        return ""
    name = f"Instance{event.index}" if event.index is not None else ""
    host = event.host or "the cloud"
    fields = {**event.fields, "instance": name, "host": host}
    return printable_line(text.format_map(_Fields(fields)))


class _Unknown:
    """What reads as "?", in whatever format."""

    def __format__(self, spec: str) -> str:
        return "?"


class _Fields(dict[str, object]):
    """An event's fields for a sentence; a missing one reads as "?"."""

    def __missing__(self, key: str) -> _Unknown:
        return _Unknown()


# The line of each kind of event; a kind that is not here is for the journal only.
SENTENCES = {
    "run.started": (
        "run {run}: {instances} x {type}, difficulty {difficulty}, "
        "at most {time_limit:g} s of search"
    ),
    "stray.found": "{text}",
    "run.aborted": "broken off: {terminated} instances terminated, {left} running",
    "instance.requested": "launching {count} x {type}",
    "launch.refused": "no room for {count} x {type} in {where}: {reason}",
    "launch.delayed": "AWS answers {reason}: again in {seconds:g} s",
    "fleet.reduced": (
        "ONLY {instances} OF {wanted} INSTANCES could be launched: the search is "
        "divided among them"
    ),
    "fleet.reused": (
        "on the fleet of run {of}: {instances} instances, no launch; they end with "
        "this run"
    ),
    "instance.running": "{instance} runs ({host}, {address})",
    "instance.lost": "{instance} is {state}: lost ({host})",
    "worker.started": "{instance} searches with {processes} x {kernel}",
    "worker.device": "{instance}'s GPU searches, too: {device}",
    "worker.found": "{instance} found {nonce} with hash {hash}",
    "worker.refuted": "{instance} is not believed: {reason}",
    "worker.failed": "{instance}'s worker failed: {reason}",
    "worker.notice": "{instance} will be interrupted by AWS at {at}",
    "worker.noise": "{instance} printed: {text}",
    "host.failed": "failed: {reason}",
    "class.handed_over": "{instance}'s class goes on from {start} on {host}",
    "host.returned": "{instance} answers again",
    "host.reconnecting": "reconnecting: {reason}",
    "log.failed": "{instance}: no log: {reason}",
    "run.stop_requested": "stopping: asked for by {by} ({text})",
    "logs.uploaded": "{count} logs are in S3, in the bucket {bucket}",
    "cloud.trouble": "trouble: {reason}",
}
SMALLEST = {
    True: "yes: every smaller nonce was tested",
    False: "not known: the run ended before every smaller nonce was tested",
}
# The same where an event has one of these fields: the first that it has decides.
VARIANTS = {
    "run.started": {
        "script": "run {run}: {instances} x {type}, a worker of your own, "
        "at most {time_limit:g} s of search",
    },
    "fleet.reused": {
        "keep": "on the fleet of run {of}: {instances} instances, no launch; they stay "
        "up (--keep), and their timers end them {holds:.0f} s from now",
    },
    "instance.lost": {
        "at": "{instance} ended while no orchestrator followed; "
        "its worker's last lines are in S3 ({host})",
        "reason": "{instance} is {state}: lost ({host}): {reason}",
    },
    "worker.found": {
        "verdict": "{instance} found {nonce}: {answer} ({verdict_reason})",
    },
    "worker.noise": {"dropped": "{text}"},
    "class.handed_over": {
        "of": "a class modulo {of} goes on from {start} on {host}",
    },
    "worker.device": {
        "refused": "{instance} does without a GPU: {refused}",
        "failed": "{instance}'s GPU has failed, it is tried once more: {failed}",
    },
}
# How many hosts had these.
COUNTED = ("instance.launched", "instance.ready", "log.pulled", "instance.terminated")
# Kinds that have lines only where instances are few, or where they report a failure.
EACH = frozenset({"instance.running", "worker.started", "worker.device"})


def _is_about_failure(event: Event) -> bool:
    """Whether an event says that a GPU, which is paid for, does not search."""
    return event.kind == "worker.device" and "kernel" not in event.fields


def report(result: Result, width: int | None = None) -> str:
    """Return the result of a run as text: the data that goes to stdout.

    Args:
        width: characters of a line; None: as many as it takes.
    """
    lines = table(_rows(result), (f"<{TITLE - 1}", "<"), gap=" ")
    return "\n".join(wrapped(line, width, TITLE) for line in lines)


def _rows(result: Result) -> Iterable[tuple[str, str]]:
    outcome, seconds = result.outcome, result.seconds
    if outcome.ending is Ending.FOUND and outcome.verified is not None:
        yield "found", str(outcome.nonce)
        yield "answer", printable_line(outcome.answer or "-")
        yield "check", printable_line(outcome.reason.partition("; ")[2])
        yield "found by", f"Instance{outcome.index} ({outcome.host})"
    elif outcome.ending is Ending.FOUND:
        yield "golden nonce", str(outcome.nonce)
        yield "hash", outcome.digest or ""
        yield "found by", _finder(result)
        if result.smallest is not None:
            yield "smallest", SMALLEST[result.smallest]
    else:
        yield "no nonce", f"{outcome.ending.outcome}: {printable_line(outcome.reason)}"
    kernel = f" ({printable_line(result.kernel)})" if result.kernel else ""
    rate = f", {number(result.hash_rate)} nonces/s{kernel}" if result.hash_rate else ""
    tested = "-" if result.tested is None else f"{result.tested:,} nonces"
    yield "tested", f"{tested}{rate}"
    if result.plan and result.plan.chain:
        yield "", _chain(result.plan.chain, result.tested_in_all)
    if result.evidence:
        yield "proof", _proof(result.evidence)
    phases = ("boot", "search", "stop", "logs", "scram", "total")
    times = (f"{p} {duration(getattr(seconds, p))}" for p in phases)
    yield "times", " · ".join(time.replace(" ", NO_BREAK) for time in times)
    yield "logs", result.logs_local
    if result.logs_s3:
        yield "", result.logs_s3
    yield "run", result.run
    yield from _receipt(result)


def _finder(result: Result) -> str:
    """Return which instance has found the nonce: of this run, or of an earlier one."""
    outcome = result.outcome
    if outcome.host is None:
        return "a run that this one resumes"
    return f"Instance{outcome.index} ({outcome.host})"


def _chain(chain: Sequence[str], tested: int | None) -> str:
    """Return which runs are resumed, and how many nonces are tested in all."""
    earlier = "" if len(chain) == 1 else f" and {len(chain) - 1} before it"
    all_of_them = "" if tested is None else f": {tested:,} nonces in all"
    return f"with run {chain[-1]}{earlier}{all_of_them}"


def _proof(evidence: Mapping[str, object]) -> str:
    """Return how many witnesses show that the nonces were tested."""
    shown, least = evidence["witnesses"], evidence["tested_at_least"]
    many = "witness" if shown == 1 else "witnesses"
    return f"{shown:,} {many}: {least:,} nonces at least"


def _receipt(result: Result) -> Iterable[tuple[str, str]]:
    """Yield what the run cost, and last what is left running, which costs money."""
    if result.usd == 0:
        why = (
            "local cloud" if result.cloud == "local" else "no instance was seen to run"
        )
        yield "cost", f"nothing: {why}"
    elif result.usd is not None:
        so_far = "so far, " if result.kept or result.leaked else ""
        yield "cost", f"about ${result.usd:.4f}, {so_far}by the price before the launch"
    else:
        yield "cost", "unknown: a price is not known"
    if result.kept:
        yield "kept", " ".join(result.kept)
        yield "", f"they end by themselves; now: fab scram --run {result.run}"
    left = len(result.kept) + len(result.leaked)
    yield f"{left} instances running", ""
