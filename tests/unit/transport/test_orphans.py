"""Reports of orphans are taken in within limits, whatever is in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.model.billing import lives, spent
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.model.replay import UNLISTED, ended
from cnd.model.result import Seconds
from cnd.model.search_state import SearchState
from cnd.on_instance import worker_events
from cnd.transport import instance_report
from cnd.transport.bounded_lines import LINES_AT_ONCE
from cnd.transport.orphans import Place, events

HOST, PART = "i-1", "class-1-from-1"
PLACE = Place(HOST, 1, {PART: 1})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def line(event: str, **fields: object) -> str:
    return json.dumps({"event": event, **fields})


def report(*lines: str, **fields: Any) -> dict[str, Any]:
    """Return what an instance leaves, as it is once it was read from S3."""
    numbered = {PART: list(enumerate(lines, 1))}
    left = {**worker_events.report(HOST, numbered), **fields}
    return instance_report.parsed(json.dumps(left).encode(), HOST)


def test_events_count_from_when_they_happened() -> None:
    left = report(line("started", time=70.0), line("timeout", time=80.0), time=100.0)
    found = events(left, PLACE, 1000.0)
    assert [(event.kind, event.received) for event in found] == [
        ("worker.started", 970.0),
        ("worker.timeout", 980.0),
    ]
    assert {(event.index, event.host) for event in found} == {(1, HOST)}


@pytest.mark.parametrize("at", [None, "soon", -1.0, True, 60.0])
def test_a_time_that_makes_no_sense_is_that_of_the_report(at: object) -> None:
    (event,) = events(report(line("timeout", time=80.0), time=at), PLACE, 1000.0)
    assert event.received == 1000.0


def test_the_report_of_another_instance_is_none() -> None:
    told = json.dumps(worker_events.report("i-2", {})).encode()
    assert instance_report.parsed(told, HOST) == {}


def test_lines_after_the_last_event_or_of_another_part_are_ignored() -> None:
    left = report(line("timeout"), line("exhausted"))
    left["parts"]["class-2-from-2"] = [[1, line("found", nonce=2)]]
    assert [event.kind for event in events(left, PLACE, 0.0)] == ["worker.timeout"]


def test_a_host_that_left_too_much_is_read_within_its_allowance() -> None:
    left = report(*[line("progress")] * 10_000, line("timeout"))
    found = events(left, PLACE, 0.0)
    assert len(found) == LINES_AT_ONCE + 1
    assert found[-1].kind == "worker.timeout"


@given(st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_bytes_that_are_no_report_have_no_events(data: bytes) -> None:
    assert events(instance_report.parsed(data, HOST), PLACE, 0.0) == ()


@settings(max_examples=25, deadline=None)
@given(JSON, JSON, st.lists(JSON | st.lists(JSON, min_size=2, max_size=2)))
def test_no_form_of_a_report_is_fatal_to_the_search(
    time: object, missing: object, lines: list[Any]
) -> None:
    search = SearchState(Plan(difficulty=9, instances=2, time_limit=60.0, nonces=1000))
    search.see(Event("instance.launched", 1, HOST))
    told = {"time": time, "log_missing": missing, "parts": {PART: lines}}
    left = instance_report.parsed(json.dumps({"instance": HOST, **told}).encode(), HOST)
    for event in events(left, PLACE, 0.0):
        search.see(event)
    instance_report.missing(left)


def test_that_a_class_was_exhausted_is_not_believed_without_witnesses() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=60.0, witness_bits=8)
    search = SearchState(plan)
    search.see(Event("instance.launched", 1, HOST))
    size = plan.nonces // 2
    end = line("exhausted", cursor=plan.nonces + 1, tested=size, witnesses=[], shown=0)
    objections = [search.see(event) for event in events(report(end), PLACE, 0.0)]
    assert [each and each.kind for each in objections] == ["worker.refuted"]
    assert search.classes[1].ended == "failed"


def test_the_events_of_an_instances_workers_fit_in_its_report() -> None:
    told = {
        f"class-{i}": [(n, "x" * 3_000) for n in range(worker_events.KEPT_LINES)]
        for i in range(3)
    }
    data = worker_events.packed(HOST, told)
    assert len(data) <= worker_events.MOST_BYTES
    parts = json.loads(data)["parts"]
    assert all(lines[-1][0] == worker_events.KEPT_LINES - 1 for lines in parts.values())


def test_what_was_launched_a_moment_ago_has_not_ended_because_it_is_not_listed() -> (
    None
):
    states = ("running", "terminated", "pending", "stopped")
    listed = {f"i-{i}": state for i, state in enumerate(states)}
    launched = {f"i-{i}": 1000.0 for i in range(4)} | {"i-4": 1000.0, "i-5": 1019.0}
    assert ended(listed, launched, 1020.0, listed_within=20.0) == {
        "i-1": "terminated",
        "i-3": "stopped",
        "i-4": UNLISTED,
    }


PLAN = Plan(difficulty=9, instances=1, time_limit=60.0, usd_per_hour=3600.0)


def lived(*, at: float | None, seen_running: bool, lost: float = 5000.0) -> list[Event]:
    end = {} if at is None else {"at": at}
    began = [Event("instance.running", 0, HOST, time=1010.0)] if seen_running else []
    return [
        Event("instance.launched", 0, HOST, {"type": "t3.micro"}, time=1000.0),
        *began,
        Event("instance.lost", 0, HOST, end, time=lost),
    ]


def test_an_orphan_is_paid_for_until_it_ended() -> None:
    assert lives(lived(at=1100.0, seen_running=True)) == {HOST: 90.0}
    assert lives(lived(at=1100.0, seen_running=False)) == {HOST: 100.0}
    assert lives(lived(at=None, seen_running=False)) == {}


def test_no_instance_is_paid_for_longer_than_its_timer_lets_it_live() -> None:
    events = lived(at=None, seen_running=True, lost=1e6)
    assert spent(PLAN, events) == pytest.approx(PLAN.lifetime, abs=60)


def test_the_phases_of_a_fleet_that_had_ended_end_with_it() -> None:
    marks = {"searching": 10.0, "decided": 20.0, "stopped": 20.0, "logged": 900.0}
    marks |= {"scramming": 901.0, "scrammed": 902.0}
    seconds = Seconds.of(marks, 5.0, 26.0)
    assert (seconds.boot, seconds.search, seconds.stop) == (5.0, 10.0, 0.0)
    assert (seconds.logs, seconds.scram, seconds.total) == (6.0, 0.0, 21.0)
