"""Events survive the journal, and a worker's output is never fatal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnd.model import events
from cnd.model.events import Event

DOCS = Path(__file__).parents[3] / "docs" / "events.md"

counted = st.integers(-int(events.LARGEST), int(events.LARGEST))
values = st.one_of(st.none(), st.booleans(), counted, st.text())
TAKEN = events.ENVELOPE.union(*events.FIELDS.values())  # with a meaning, and a type
names = st.text(min_size=1).filter(lambda n: n not in TAKEN)


@given(
    st.sampled_from(sorted(events.KINDS)),
    st.one_of(st.none(), st.integers(0, 1000)),
    st.one_of(st.none(), st.text()),
    st.dictionaries(names, values),
    st.integers(0, 2**40),
)
def test_an_event_survives_the_journal(
    kind: str, index: int | None, host: str | None, fields: dict[str, object], at: int
) -> None:
    event = Event(kind, index, host, fields, at / 1000)
    line = event.to_json()
    assert "\n" not in line
    back = events.from_json(line)
    assert (back.kind, back.index, back.host) == (kind, index, host)
    assert (dict(back.fields), back.time) == (fields, at / 1000)


@given(st.text())
def test_whatever_a_worker_prints_becomes_an_event(line: str) -> None:
    event = events.from_worker(line, index=3, host="i-1")
    assert event.kind in events.KINDS
    assert (event.index, event.host) == (3, "i-1")


@pytest.mark.parametrize(
    "line",
    ["[]", "3", "{}", '{"event": "bought"}', '{"event": []}', "Traceback", '{"event":'],
)
def test_what_is_no_event_of_a_worker_is_kept_as_noise(line: str) -> None:
    event = events.from_worker(line, index=0, host="i-1")
    assert (event.kind, event.fields["text"]) == ("worker.noise", line)


def test_a_worker_event_keeps_its_fields_and_its_own_time() -> None:
    line = '{"event": "progress", "time": 12.5, "cursor": 7}'
    event = events.from_worker(line, index=0, host="i-1")
    assert (event.kind, event.time) == ("worker.progress", 12.5)
    assert event.fields == {"cursor": 7}


def test_an_unknown_kind_of_event_is_a_bug() -> None:
    with pytest.raises(ValueError, match=r"run\.dreamt"):
        Event("run.dreamt")


def test_the_documentation_lists_exactly_the_kinds_there_are() -> None:
    listed = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", DOCS.read_text(), re.M)
    assert sorted(listed) == sorted(events.KINDS)
