"""The live view counts every instance, and shows the right ones where few fit."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnd.model.events import Event
from cnd.model.plan import Plan, Usage
from cnd.view.instance_rows import (
    STATES,
    TROUBLE,
    InstanceRow,
    InstanceRows,
    chosen,
    summed_up,
)
from cnd.view.live_table import COLUMNS, LiveView, columns
from cnd.view.narrator import sentence
from cnd.view.terminal import wrapped

rows = st.lists(
    st.builds(
        InstanceRow,
        index=st.integers(0, 99),
        host=st.uuids().map(str),
        state=st.sampled_from(sorted(set(STATES.values()))),
        since=st.floats(0, 1e3),
        rate=st.sampled_from([0.0, 1.0, 5.0, 9.0]),
    ),
    unique_by=lambda row: row.host,
)


@given(rows, st.integers(-3, 40))
def test_no_more_rows_than_there_is_room_for_each_once_and_in_order(
    every: list[InstanceRow], room: int
) -> None:
    shown = chosen(every, room)
    assert len(shown) == min(len(every), max(0, room))
    assert len({row.host for row in shown}) == len(shown)
    assert [row.index for row in shown] == sorted(row.index for row in shown)


@given(rows, st.integers(0, 40))
def test_trouble_is_shown_before_all_else(every: list[InstanceRow], room: int) -> None:
    shown = chosen(every, room)
    troubled = sum(row.state in TROUBLE for row in every)
    assert sum(row.state in TROUBLE for row in shown) == min(troubled, room)


@given(rows, st.integers(0, 40))
def test_those_that_are_not_shown_are_counted(
    every: list[InstanceRow], room: int
) -> None:
    shown = chosen(every, room)
    counts = [int(word) for word in summed_up(every, shown).split() if word.isdecimal()]
    hidden = len(every) - len(shown)
    assert (counts[0], sum(counts[1:])) == (hidden, hidden) if hidden else not counts


def test_the_slowest_and_the_fastest_are_shown() -> None:
    every = [
        InstanceRow(i, f"i-{i}", state="searches", rate=100.0 + i) for i in range(64)
    ]
    shown = {row.index for row in chosen(every, 6)}
    assert {0, 63} <= shown


MICRO = {"type": "t3.micro", "zone": "a"}


def test_an_instance_goes_through_its_states_on_our_own_clock() -> None:
    rows = InstanceRows()
    story = [
        Event("instance.launched", 3, "i-1", {**MICRO, "spot": True}),
        Event("instance.running", 3, "i-1", {"address": "10.0.0.1"}),
        Event("instance.ready", 3, "i-1"),
        Event("worker.started", 3, "i-1", {"kernel": "avx2"}, time=-5000.0),
        Event("worker.progress", 3, "i-1", {"tested": 100, "rate": 50.0}),
        Event("worker.progress", 7, "i-1", {"tested": 10, "rate": 5.0}),
        Event("worker.stopped", 3, "i-1", {"tested": 120, "rate": 50.0}),
        Event("log.pulled", 3, "i-1"),
        Event("instance.terminated", 3, "i-1"),
    ]
    states = []
    for now, event in enumerate(story):
        rows.see(event, float(now))
        states.append(rows.by_id["i-1"].state)

    assert states == [
        *("pending", "boots", "set up", "searches", "searches", "searches"),
        *("stopped", "log here", "terminated"),
    ]
    row = rows.by_id["i-1"]
    assert (row.type, row.address, row.kernel) == ("t3.micro", "10.0.0.1", "avx2")
    assert (row.tested, row.rate, row.since) == (130, 0.0, 8.0)
    assert rows.usages(99.0) == [Usage(7.0, "t3.micro", "a", spot=True)]


def test_a_log_does_not_hide_how_it_ended() -> None:
    rows = InstanceRows()
    rows.see(Event("instance.launched", 0, "i-1"), 0.0)
    rows.see(Event("host.failed", 0, "i-1", {"reason": "no key"}), 1.0)
    rows.see(Event("log.failed", 0, "i-1", {"reason": "no log"}), 2.0)
    assert rows.by_id["i-1"].state == "failed"


@pytest.mark.parametrize("width", range(10, 200, 7))
def test_the_columns_fit_the_terminal(width: int) -> None:
    shape = columns(width)
    assert sum(column.width + 1 for column in shape) - 1 <= width
    assert width < 60 or {"#", "state", "nonces"} <= {c.title for c in shape}
    assert all(len(column.fit("x" * 50)) == column.width for column in COLUMNS)


TOLD = [
    Event("instance.launched", 3, "i-0123456789abcdef0", {"type": "c6a.large"}),
    Event("instance.running", 3, "i-0123456789abcdef0", {"address": "203.0.113.254"}),
    Event("worker.started", 3, "i-0123456789abcdef0", {"kernel": "shani-avx512vl"}),
    Event(
        "worker.progress",
        3,
        "i-0123456789abcdef0",
        {"tested": 12_345_678, "rate": 987_654.0, "zone": "eu-west-2a"},
    ),
]


def frame(width: int, *more: Event) -> list[str]:
    view = LiveView(Plan(difficulty=2, instances=1, time_limit=9), Tty(), past=TOLD)
    for event in more:
        view.show(event)
    lines = view.frame(TOLD[-1].time + 2.0, width, 9).plain.splitlines()
    view.close()
    return lines


def test_a_hundred_columns_show_everything() -> None:
    titles, row, *_ = frame(100)
    assert titles.split() == [
        *("#", "id", "type", "address", "zone", "state", "for", "nonces"),
        *("per", "s", "kernel", "last", "event"),
    ]
    assert row.split() == [
        *("3", "bcdef0", "c6a.large", "203.0.113.254", "2a", "searches", "2.0s"),
        *("12.3M", "988k", "shani-vl", "2.0s", "progress"),
    ]
    assert len(row) <= 100


def test_sixty_columns_show_what_matters_most() -> None:
    titles, row, *_ = frame(60)
    assert titles.split() == [
        *("#", "id", "state", "for", "nonces", "per", "s", "last", "event")
    ]
    assert len(row) <= 60
    assert "12.3M" in row


def test_what_is_wrong_stands_in_the_row_as_its_last_event() -> None:
    failed = Event("host.failed", 3, "i-0123456789abcdef0", {"reason": "no key here"})
    assert "no key here" in frame(100, failed)[1]


def test_lines_fold_at_words_and_what_follows_is_indented() -> None:
    text = "[  1.00 s] one two three four five six seven eight nine ten eleven"
    assert wrapped(text, 40, 11).splitlines() == [
        "[  1.00 s] one two three four five six",
        "           seven eight nine ten eleven",
    ]
    assert wrapped(text, None, 11) == text
    digest = "hash           " + "0" * 64
    assert wrapped(digest, 60, 15) == digest  # to be copied whole


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_another_machine_says_cannot_steer_the_terminal() -> None:
    stream = Tty()
    view = LiveView(Plan(difficulty=2, instances=1, time_limit=9), stream)
    hostile = "\x1b[2J\x1b]0;owned\x07\r\n"
    view.show(Event("instance.launched", 0, "i-0", {"type": "t3.micro"}))
    view.show(Event("worker.noise", 0, "i-0", {"text": hostile}))
    view.show(Event("worker.failed", 0, "i-0", {"reason": hostile}))
    view.close()
    told = sentence(Event("worker.noise", 0, "i-0", {"text": hostile}))
    assert told.isprintable()
    assert "\x1b[2J" not in stream.getvalue()
    assert "\x1b]0" not in stream.getvalue()
