"""The lines that show a run where there is no table."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cnd.model.events import Event
from cnd.model.outcome import Ending, Outcome
from cnd.model.plan import Plan
from cnd.model.result import Result, Seconds
from cnd.model.search_state import SearchState
from cnd.view.guarded import FallbackViewer
from cnd.view.live_table import LiveView
from cnd.view.narrator import Narrator, report

PLAN = Plan(difficulty=9, instances=20, time_limit=9)


ENDED = Result(
    run="20260101-000000-0000",
    cloud="local",
    region="eu-west-2",
    outcome=Outcome(Ending.STOPPED, "asked for"),
    block="b",
    difficulty=2,
    instances=1,
    asked=1,
    fleet=[],
    tested=0,
    repeated=0,
    repeated_at_most=0,
    coverage=[],
    hash_rate=None,
    kernel=None,
    seconds=Seconds(None, None, None, None, None, 1.0),
    usd=0.0,
    logs_local="logs",
    logs_s3=None,
    terminated={},
    kept=(),
    leaked=(),
)


def test_a_large_fleet_is_shown_by_its_milestones() -> None:
    stream, search = io.StringIO(), SearchState(PLAN)
    lines = Narrator(PLAN, stream)

    def show(kind: str, index: int | None = None, **fields: Any) -> None:
        lines.show(Event(kind, index, f"i-{index}", fields))

    for index in range(20):
        show("instance.launched", index)
        show("instance.running", index, address="a")
        show("log.pulled", index)
    search.decide(Ending.TIMEOUT, "9 s are over")
    lines.tick(search)
    lines.tick(search)
    show("logs.uploaded", bucket="cnd-logs", count=20)
    for index in range(20):
        show("instance.terminated", index)
    show("run.ended", outcome="timeout", reason="9 s are over")

    told = stream.getvalue().splitlines()
    assert [re.sub(r"^\[ *[0-9.]+ s\] ", "", line) for line in told] == [
        "timeout: 9 s are over",
        "20 of 20 logs here",
        "20 logs are in S3, in the bucket cnd-logs",
        "20 of 20 instances terminated",
    ]


def test_a_gpu_that_does_not_search_is_told_of_in_a_large_fleet_too() -> None:
    stream = io.StringIO()
    lines = Narrator(PLAN, stream)
    told = ({"kernel": "opencl", "device": "T4"}, {"refused": "no driver"})
    for index, fields in enumerate((*told, {"failed": "clFlush fails"})):
        lines.show(Event("worker.device", index, f"i-{index}", fields))
    assert [line.partition("] ")[2] for line in stream.getvalue().splitlines()] == [
        "Instance1 does without a GPU: no driver",
        "Instance2's GPU has failed, it is tried once more: clFlush fails",
    ]


def test_hosts_are_counted_once_those_of_a_run_taken_over_too() -> None:
    """A host that took over a class has its log pulled for each."""
    kinds = ("instance.launched", "log.pulled", "log.pulled", "instance.terminated")
    past = [Event(kind, i, f"i-{i}") for i in range(3) for kind in kinds]
    stream = io.StringIO()
    lines = Narrator(PLAN, stream, past=past)
    lines.show(Event("log.pulled", 1, "i-1"))
    lines.show(Event("logs.uploaded", fields={"bucket": "b", "count": 3}))
    lines.show(Event("run.ended", fields={"outcome": "found", "reason": "r"}))
    assert "] 3 of 3 logs here\n" in stream.getvalue()
    assert "] 3 of 3 instances terminated\n" in stream.getvalue()


def test_a_signal_is_answered_with_a_time_before_it() -> None:
    ours, theirs = os.pipe()
    with open(theirs, "w") as stream, open(ours) as reader:
        Narrator(PLAN, stream).answer("stopping: Ctrl-C")
        assert re.fullmatch(r"\[ *[0-9.]+ s\] stopping: Ctrl-C\n", reader.readline())


@pytest.mark.parametrize(
    ("ending", "told"),
    [(None, "0 of 8 instances ready"), (Ending.STOPPED, "ending: 0 of 8 logs here")],
)
def test_a_run_that_waits_shows_now_and_then_for_what(
    ending: Ending | None, told: str
) -> None:
    """The reader of a pipe takes silence for a hang."""
    search, plan = SearchState(PLAN), Plan(difficulty=2, instances=8, time_limit=60.0)
    if ending:
        search.decide(ending, "asked for")
    for repeat, lines in ((60.0, False), (0.0, True)):
        stream = io.StringIO()
        Narrator(plan, stream, repeat=repeat).tick(search)
        assert (told in stream.getvalue()) is lines


@pytest.mark.parametrize(
    ("cloud", "usd", "told"),
    [
        ("local", 0.0, "nothing: local cloud"),
        ("aws", 0.0, "nothing: no instance was seen to run"),
        ("aws", 0.5, "about $0.5000, by the price before the launch"),
        ("aws", None, "unknown: a price is not known"),
    ],
)
def test_the_receipt_has_what_a_run_cost_and_how_that_is_known(
    cloud: str, usd: float | None, told: str
) -> None:
    """A run on AWS that was stopped before its launch cost nothing, too."""
    text = report(replace(ENDED, cloud=cloud, usd=usd), 200)
    assert f"cost{told}" in re.sub(r"  +", "", text)


CHAINED = replace(
    Plan(2, 2, 9.0, nonces=1000, smallest=True),
    work=((4, 3), (4, 5), (2, 8)),
    chain=("run-a", "run-b"),
    tested_before=400,
    known=116,
)


def test_a_run_that_resumes_others_names_them_and_the_sum() -> None:
    known = Outcome(Ending.FOUND, "golden nonce 116", 116, "00a7")
    result = replace(ENDED, outcome=known, plan=CHAINED, tested_in_all=900)
    text = report(result, 200)

    assert "with run run-b and 1 before it: 900 nonces in all" in text
    assert re.search(r"found by +a run that this one resumes", text)


def test_of_a_run_with_more_pieces_than_instances_the_instances_are_named() -> None:
    stream = io.StringIO()
    lines = Narrator(CHAINED, stream)
    lines.show(Event("instance.launched", 1, "i-1"))
    given = {"start": 8, "of": 2}
    lines.show(Event("class.handed_over", 2, "i-1", given))
    lines.show(Event("worker.started", 2, "i-1", {"processes": 2, "kernel": "avx2"}))

    assert "a class modulo 2 goes on from 8 on i-1" in stream.getvalue()
    assert "Instance1 searches with 2 x avx2" in stream.getvalue()


class Broken(io.StringIO):
    """A stream that takes so many writes, and raises from then on."""

    def __init__(self, takes: int, error: Exception) -> None:
        super().__init__()
        self.takes, self.error = takes, error

    def write(self, text: str, /) -> int:
        self.takes -= 1
        if self.takes < 0:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("takes", range(6))
@pytest.mark.parametrize(
    "error", [OSError("gone"), UnicodeError("odd"), ValueError("closed"), KeyError(1)]
)
@pytest.mark.parametrize("make", [Narrator, LiveView])
def test_a_stream_that_raises_costs_the_view_and_nothing_else(
    make: Callable[..., Any], error: Exception, takes: int
) -> None:
    broken, other = Broken(takes, error), io.StringIO()
    shown = FallbackViewer(
        lambda: make(PLAN, broken), lambda: Narrator(PLAN, other, repeat=0.0)
    )
    for event in (Event("run.aborted"), Event("instance.requested")):
        shown.show(event)
        shown.tick(SearchState(PLAN))
        shown.answer("stopping")
    shown.close()
    shown.close()
    if not isinstance(error, OSError):
        assert "it could not be shown" in other.getvalue() or broken.takes >= 0
