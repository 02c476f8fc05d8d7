"""Whatever a result says, a run is resumed from it or refused, in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnd.errors import UsageError
from cnd.model import resumption
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.run import past_run
from cnd.run.journal import MOST_BYTES, RESULT, Journal

RUN = "20260102-030405-abcd"
PLAN = Plan(9, 2, 30.0, nonces=1000)


def row(index: int) -> dict[str, Any]:
    counts = {"cursor": 100 + index, "next": 100 + index, "again": 0, "tested": 50}
    more = {"again_at_most": 3, "repeated": 0, "ended": "timeout"}
    return {"index": index, "of": 2, "start": index, **counts, **more}


BASE: dict[str, Any] = {
    **{"run": RUN, "outcome": "timeout", "nonce": None, "smallest": None},
    **{"instances": 2, "cloud": "local", "region": "us-east-1", "tested": 100},
    **{"repeated": 0, "tested_in_all": 100, "coverage": [row(0), row(1)]},
    "plan": json.loads(json.dumps(PLAN.options())),
}
STRANGE: tuple[object, ...] = (
    *(None, True, -1, 3, 10**19, 0.5, "\x1b[31m", [], {}, [[0, 1]], [[2, 100], [1, 0]]),
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(RUN, tmp_path / RUN)
    journal.create()
    return journal


def places(value: object, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to each value within a value of JSON."""
    items: Iterator[tuple[Any, object]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    for key, inner in items:
        yield (*above, key)
        yield from places(inner, (*above, key))


def changed(path: tuple[Any, ...], value: object) -> dict[str, Any]:
    whole = copy.deepcopy(BASE)
    inner: Any = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return whole


def gone_on(journal: Journal, result: dict[str, Any]) -> Plan:
    """Return the plan of a run that resumes one with this result."""
    (journal.folder / RESULT).write_text(json.dumps(result))
    journal.damage.clear()
    past = past_run.read(journal)
    resumption.require_open(past, smallest=past.plan.smallest)
    return resumption.dealt(resumption.continued(past, past.plan))


def test_whatever_value_of_a_result_is_strange_a_run_is_resumed_or_refused(
    journal: Journal,
) -> None:
    refused = 0
    for path in places({**BASE, "coverage": BASE["coverage"][:1]}):
        for value in STRANGE:
            try:
                plan = gone_on(journal, changed(path, value))
            except UsageError as error:
                assert len(str(error).splitlines()) == 1
                assert str(error).isprintable()
                assert error.hint or path[0] == "plan"
                refused += 1
            else:
                ranges = [piece.within(plan.nonces) for piece in plan.pieces]
                assert sum(map(len, ranges)) <= plan.nonces
                assert 0 <= plan.tested_before <= plan.nonces
    assert refused > 200


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "or no class"),
        ([row(0), row(0)], "a nonce in two classes"),
        ([row(0), {**row(1), "of": 1}], "a nonce in two classes"),
        ([row(0), {**row(1), "of": 4, "next": 102}], "a nonce in two classes"),
        ([{**row(0), "again": 900}, row(1)], "more nonces than a class"),
        ([{**row(0), "again_at_most": 900}, row(1)], "more nonces than a class"),
        ([{**row(0), "next": -1}, row(1)], "'-1' is no part of a coverage"),
    ],
)
def test_a_coverage_that_no_run_leaves_is_refused(
    journal: Journal, rows: list[dict[str, Any]], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        gone_on(journal, {**BASE, "coverage": rows})


def test_a_result_too_large_to_be_one_is_refused(journal: Journal) -> None:
    (journal.folder / RESULT).write_bytes(b"[" * (MOST_BYTES + 1))

    with pytest.raises(UsageError, match=r"result\.json is damaged"):
        past_run.read(journal)


def test_a_run_whose_result_is_damaged_is_not_resumed_from_half_of_its_events(
    journal: Journal,
) -> None:
    """Its progress went into the result."""
    asked = {"difficulty": 9, "instances": 2, "nonces": 1000, "time_limit": 30.0}
    journal.append(Event("run.started", fields={"run": RUN, **asked}))
    assert past_run.read(journal).left == 1000
    (journal.folder / RESULT).write_text('{"outcome": "time')

    with pytest.raises(UsageError, match=r"result\.json is damaged"):
        past_run.read(journal)


@pytest.mark.parametrize(
    ("transition", "at"),
    [
        ("User initiated (1970-01-01 00:01:05 GMT)", 65.0),
        ("User initiated (1970-01-01 00:01:05 UTC)", 65.0),
        ("User initiated (1970-13-01 00:01:05 GMT)", None),
        ("", None),
    ],
)
def test_the_end_of_an_instance_is_read_where_aws_tells_it(
    transition: str, at: float | None
) -> None:
    assert past_run.requested_at(transition) == at
