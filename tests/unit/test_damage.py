"""Whatever lies in the folder of a run, reading it ends in values, and says so."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.cli.tasks_look import _cells, _line, _past
from cnd.errors import UsageError
from cnd.model.billing import spent
from cnd.model.events import Event
from cnd.model.format import table
from cnd.model.plan import Plan
from cnd.model.replay import replayed, unanswered
from cnd.run import order, status
from cnd.run.event_files import EVENTS
from cnd.run.journal import LOCK, ORDER, RESULT, Journal
from cnd.view.export import as_csv, as_json
from cnd.view.html_report import page
from cnd.view.live_table import LiveView
from cnd.view.narrator import Narrator
from cnd.view.timeline import timeline

RUN = "20260101-000000-abcd"
PLAN = Plan(difficulty=2, instances=2, time_limit=9.0)
ORDERED = {
    "cloud": "aws",
    "region": "eu-west-2",
    "account": "1",
    "plan": {"difficulty": 2, "instances": 2, "time_limit": 9.0, "words": []},
    "provision": {
        "specs": [],
        "login": {"user": "me", "key": "/k", "host_key": "ssh-ed25519 AAAA"},
        "queue": "https://queue",
        "bucket": "logs",
    },
}
RECORDS: list[dict[str, Any]] = [
    {"kind": "run.started", "run": RUN, "block": "b", "difficulty": 2, "instances": 2}
    | {"nonces": 100, "time_limit": 9.0, "type": "t3.micro", "script": ""},
    {"kind": "instance.requested", "count": 2, "type": "t3.micro", "token": "t"},
    {"kind": "fleet.reduced", "wanted": 3, "instances": 2},
    {"kind": "instance.launched", "index": 0, "host": "i-0", "type": "t3.micro"},
    {"kind": "instance.running", "index": 0, "host": "i-0", "classes": [0]},
    {"kind": "instance.ready", "index": 0, "host": "i-0"},
    {"kind": "worker.started", "index": 0, "host": "i-0", "kernel": "avx2"},
    {"kind": "worker.progress", "index": 0, "host": "i-0", "tested": 5, "cursor": 9},
    {"kind": "class.handed_over", "index": 1, "host": "i-0", "start": 3},
    {"kind": "worker.found", "index": 0, "host": "i-0", "nonce": 116},
    {"kind": "log.pulled", "index": 0, "host": "i-0", "path": "x"},
    {"kind": "run.stop_requested", "by": "signal", "text": "Ctrl-C"},
    {"kind": "instance.terminated", "index": 0, "host": "i-0"},
    {"kind": "run.ended", "outcome": "found", "reason": "golden nonce 116"},
]
RESULTED: dict[str, Any] = {
    "outcome": "found",
    "nonce": 116,
    "usd": 0.1,
    "seconds": {"boot": 1.0, "search": 2.0, "total": 3.0},
    "coverage": [
        {"index": 0, "cursor": 4, "tested": 2, "repeated": 0, "ended": "found"}
    ],
    "logs": {"s3": None},
    "receipt": {"kept": []},
}
odd = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from([10**400, -1, 1e18, "\x00"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn, record: dict[str, Any]) -> bytes:
    """Return a record as JSON, with something in it that was not written so."""
    told = json.loads(json.dumps(record))
    for name in draw(st.sets(st.sampled_from(sorted(told)), max_size=2)):
        told[name] = draw(odd)
    if draw(st.booleans()):
        told.pop(draw(st.sampled_from(sorted(told))))
    line = json.dumps(told).encode()
    cut = draw(st.integers(0, len(line))) if draw(st.integers(0, 5)) == 0 else None
    return line[:cut]


def journals() -> st.SearchStrategy[bytes]:
    lines = [mutated({"time": 1.7e9 + i, **each}) for i, each in enumerate(RECORDS)]
    return st.one_of(
        st.tuples(*lines).map(b"\n".join),
        st.lists(st.one_of(*lines, st.binary(max_size=20)), max_size=20).map(
            b"\n".join
        ),
        st.binary(max_size=200),
    )


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = Journal(RUN)
    made.create()
    return made


def look_at(journal: Journal) -> None:
    """Do all that any command does with the files of a run."""
    events, result = list(journal.events()), journal.result()
    line = timeline(RUN, events, result)
    page(line, {}, [])
    replayed(PLAN, events)
    unanswered(events)
    spent(PLAN, events)
    stream = io.StringIO()
    for view in (
        Narrator(PLAN, stream, past=events),
        LiveView(PLAN, stream, past=events),
    ):
        for event in events:
            view.show(event)
        view.close()
    list(table([_cells(_past(journal, False))], ("<",), gap="  "))
    [_line(event) for event in events]
    as_json(journal)
    as_csv(journal)
    status.survey([], None)
    status._activities(journal)
    status.may_be_followed(RUN)
    status._could_be_taken_over(journal)
    order.kept(journal)


SOURCES = {
    EVENTS: journals(),
    ORDER: st.one_of(mutated(ORDERED), st.binary(max_size=100)),
    RESULT: st.one_of(mutated(RESULTED), st.binary(max_size=100)),
}
count = pytest.mark.parametrize(
    "count", [10, pytest.param(200, marks=pytest.mark.slow)]
)


@count
@pytest.mark.parametrize("name", SOURCES)
def test_any_bytes_in_the_files_of_a_run_are_read_without_an_error(
    journal: Journal, name: str, count: int
) -> None:
    (journal.folder / ORDER).write_text(json.dumps(ORDERED))
    lines = [json.dumps({"time": 1.7e9, **each}) for each in RECORDS]
    (journal.folder / EVENTS).write_text("\n".join(lines))

    @settings(deadline=None, max_examples=count)
    @given(SOURCES[name])
    def check(data: bytes) -> None:
        (journal.folder / name).write_bytes(data)
        look_at(Journal(RUN))

    check()


def test_what_was_written_is_read_as_it_was(journal: Journal) -> None:
    (journal.folder / ORDER).write_text(json.dumps(ORDERED))
    (journal.folder / RESULT).write_text(json.dumps(RESULTED))
    lines = [json.dumps({"time": 1.7e9, **each}) for each in RECORDS]
    (journal.folder / EVENTS).write_text("\n".join(lines))
    assert [event.kind for event in journal.events()] == [r["kind"] for r in RECORDS]
    assert journal.result() == RESULTED
    kept = order.kept(journal)
    assert kept is not None
    assert (kept.plan.instances, kept.provision.bucket) == (2, "logs")
    assert journal.complaint == ""


def test_a_damaged_line_is_counted_and_the_others_are_read(journal: Journal) -> None:
    good = Event("run.attached", fields={"pid": 1}).to_json().encode()
    odd = [b"\xff\xfe", b'{"kind": "run.ended", "time": "noon"}', b"[" * 50_000]
    long = b'{"kind": "' + b"x" * 3_000_000
    (journal.folder / EVENTS).write_bytes(b"\n".join([good, *odd, long, good, b"{"]))
    assert len(list(journal.events())) == 2
    assert journal.complaint == "events.jsonl has 4 damaged lines: passed over"


def loop(path: Path) -> None:
    path.symlink_to(path)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize("name", [EVENTS, ORDER, RESULT, LOCK])
@pytest.mark.parametrize("put", [Path.mkdir, loop, pipe, endless, huge])
def test_what_is_no_file_is_named_and_passed_over(
    journal: Journal, name: str, put: Callable[[Path], None]
) -> None:
    if (name, put) == (EVENTS, huge):
        return  # a journal may be large: it is read line by line
    put(journal.folder / name)
    look_at(Journal(RUN))
    told = Journal(RUN)
    assert (list(told.events()), told.result(), told.kept_order()) == ([], None, None)
    assert name in told.complaint or name == LOCK
    journal.note_scram(2)
    with pytest.raises(UsageError):
        order.to_take_over(journal)
