"""What a worker prints is kept and shown, and never ends the program that reads it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.model import events
from cnd.model.events import Event
from cnd.model.outcome import Ending
from cnd.model.plan import Plan
from cnd.model.search_state import SearchState
from cnd.run.roster import Roster
from cnd.run.status import _activity
from cnd.view.instance_rows import InstanceRows
from cnd.view.live_table import LiveView
from cnd.view.narrator import Narrator, sentence
from cnd.view.timeline import timeline

PLAN = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
LAUNCHED = (
    Event("instance.launched", 0, "i-0", {"type": "t3.micro", "zone": "a"}),
    Event("instance.launched", 1, "i-1", {"type": "t3.micro", "zone": "a"}),
)

# What a program may print that means well, or ill, or nothing.
anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**400, -(10**400), 10**19, 2**63, -1]),
        st.floats(),
        st.text(),
        st.just("\x1b[2J\x07\ud800"),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=6,
)
WORDS = [k.removeprefix("worker.") for k in events.KINDS if k.startswith("worker.")]
FIELDS = (
    *("time", "cursor", "tested", "rate", "nonce", "hash", "kernel", "reason", "at"),
    *("kind", "index", "host", "who", "by", "text", "verdict", "answer", "processes"),
)
lines = st.one_of(
    st.text(),
    st.fixed_dictionaries(
        {"event": st.one_of(st.sampled_from(WORDS), anything)},
        optional=dict.fromkeys(FIELDS, anything),
    ).map(json.dumps),
    anything.map(json.dumps),
)


def shown(said: list[Event]) -> str:
    """Return what both views write of events, until the end."""
    stream = io.StringIO()
    search = SearchState(PLAN)
    for view in (Narrator(PLAN, stream), LiveView(PLAN, stream)):
        for event in (*LAUNCHED, *said):
            search.see(event)
            view.show(event)
        view.tick(search)
        view.close()
    return stream.getvalue()


@pytest.mark.parametrize("count", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_every_line_is_kept_judged_and_shown(count: int) -> None:
    @settings(deadline=None, max_examples=count)
    @given(st.lists(lines, min_size=1, max_size=4))
    def check(printed: list[str]) -> None:
        keep_judge_and_show(printed)

    check()


def keep_judge_and_show(printed: list[str]) -> None:
    said = [events.from_worker(line, index=1, host="i-1") for line in printed]
    search, rows, roster = SearchState(PLAN), InstanceRows(), Roster()
    for event in (*LAUNCHED, *said):
        kept = events.from_json(event.to_json())
        assert (kept.kind, kept.index, kept.host) == (
            event.kind,
            event.index,
            "i-1",
        ) or (event in LAUNCHED)
        search.see(event)
        rows.see(event, 0.0)
        roster.note(event)
        assert _activity(event).isprintable()
        assert sentence(event).isprintable()
    search.settle()
    assert search.outcome is None or search.outcome.ending is Ending.INCOMPLETE
    assert 0 <= search.tested <= 500
    told: list[Any] = [search.coverage, search.hash_rate, search.kernels, rows.census()]
    json.dumps(told, allow_nan=False)
    timeline("run", (*LAUNCHED, *said), None)


@settings(deadline=None)
@given(st.lists(lines, min_size=1, max_size=2))
def test_no_line_steers_the_terminal(printed: list[str]) -> None:
    said = [events.from_worker(line, index=1, host="i-1") for line in printed]
    written = shown(said)
    assert "\x1b[2J" not in written
    assert "\x07" not in written


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "progress", "rate": 1' + 400 * "0" + "}",
        '{"event": "progress", "time": 1' + 400 * "0" + "}",
        '{"event": "progress", "rate": 1' + 100_000 * "0" + "}",
        '{"event": "progress", "rate": NaN}',
        '{"event": "progress", "rate": -Infinity}',
        '{"event": "progress", "rate": 1e999}',
        '{"event": "progress", "time": 1e19}',
        '{"event": "progress", "time": "12"}',
        '{"event": "refuted", "reason": "said of another"}',
        100_000 * "[",
        '{"event": ' + 100_000 * "[",
        '{"event": "progress", "rate": ' + 900 * "[" + 900 * "]" + "}",
        '{"event": "started", "refused": ' + 20 * '{"a": ' + "1" + 20 * "}" + "}",
    ],
    ids=lambda line: f"{line[:34]} {len(line)}",
)
def test_what_makes_no_sense_is_noise(line: str) -> None:
    event = events.from_worker(line, index=0, host="i-1")
    assert (event.kind, event.fields["text"]) == ("worker.noise", line[:1000])


def test_what_a_worker_says_with_parts_keeps_them() -> None:
    line = '{"event": "started", "refused": {"avx2": "no such processor"}}'
    event = events.from_worker(line, index=0, host="i-1")
    assert event.fields == {"refused": {"avx2": "no such processor"}}
