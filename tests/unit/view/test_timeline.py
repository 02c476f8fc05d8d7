"""What the events of a run show, with its result and without it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cnd.model.catalog import OFFERS
from cnd.model.events import Event
from cnd.view.timeline import list_usd, timeline
from tests.support.timelines import REQUEST, RESULT, at, observed, whole_run


def test_the_price_on_aws_follows_from_the_list() -> None:
    # 10 s and 9 s of running, and 60 s are billed at least.
    usd = list_usd(observed(whole_run(), RESULT))
    assert usd == pytest.approx(2 / 60 * OFFERS["t3.micro"].price.usd_per_hour)
    assert list_usd(observed([at(0, "run.started", **REQUEST)])) == 0
    unknown = [
        replace(e, fields={**e.fields, "type": "x9.huge"})
        if e.kind == "instance.launched"
        else e
        for e in whole_run()
    ]
    assert list_usd(observed(unknown, RESULT)) is None


def test_a_run_without_a_result_shows_what_its_events_show() -> None:
    line = observed(whole_run()[:-3])
    assert (line.outcome, line.decided) == ("unfinished", None)
    assert [(c.index, c.tested, c.size) for c in line.classes] == [
        (0, 300, 500),
        (1, 300, 500),
    ]
    assert {instance.end for instance in line.instances} == {"not seen terminated"}
    broken = observed([*whole_run()[:-3], at(11, "run.aborted", terminated=2, left=0)])
    assert (broken.outcome, broken.decided) == ("aborted", 11)


def test_a_run_of_nothing_is_no_failure() -> None:
    line = observed([])
    assert (line.instances, line.classes, line.seconds) == ((), (), 0)


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf, 0.0, 1e18])
def test_a_workers_clock_counts_only_where_the_orchestrators_does_not_contradict(
    time: float,
) -> None:
    events = whole_run()
    found = next(i for i, e in enumerate(events) if e.kind == "worker.progress")
    events[found] = Event("worker.progress", 0, "i-0", {"tested": 100}, time)
    line = observed(events, RESULT)
    assert line.instances[0].tested == 300
    for span in line.instances[0].spans:
        assert 0 <= span.begin <= span.end <= line.seconds


def test_a_run_over_pieces_shows_how_much_of_each_was_tested() -> None:
    """By its result, and by its events where it has none."""
    rows = [
        {"index": 0, "of": 4, "start": 103, "cursor": 303, "tested": 60, "repeated": 5},
        {"index": 1, "of": 2, "start": 900, "cursor": 900, "tested": 0, "repeated": 0},
    ]
    result = {"coverage": [{**row, "ended": "timeout"} for row in rows]}
    line = timeline("r", whole_run(), result)
    assert [(c.size, c.tested, c.below) for c in line.classes] == [
        (225, 55, 50),
        (50, 0, 0),
    ]

    pieces = {"work": [[4, 103], [2, 900]], "chain": ["a"], "known": None}
    begun, *rest = whole_run()
    events = [replace(begun, fields={**begun.fields, **pieces}), *rest]
    assert [c.size for c in timeline("r", events, None).classes] == [225, 50]
