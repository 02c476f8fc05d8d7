"""The contents of a report: figures, facts and remarks, as text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cnd.model.events import Event
from cnd.view.report_facts import facts, heading, history_row, note, remarks, tiles
from cnd.view.timeline import timeline
from tests.support.timelines import REQUEST, RESULT, at, observed, of, whole_run


def test_the_facts_have_units_and_the_price_its_source() -> None:
    local = {**RESULT, "cloud": "local", "usd": 0.0, "left_running": 0}
    found = dict(facts(timeline("r", whole_run(), local)))
    assert (found["nonce space"], found["time limit"]) == ("1,000", "30 s")
    assert re.fullmatch(r"nothing, \$0\.\d{4} on AWS", found["price"])
    paid = {**RESULT, "cloud": "aws", "usd": 0.5, "left_running": 0}
    assert dict(facts(timeline("r", whole_run(), paid)))["price"] == (
        "$0.5000, by the price before the launch"
    )
    kept = dict(facts(timeline("r", whole_run(), {**paid, "left_running": 1})))
    assert kept["price"] == "$0.5000, so far, by the price before the launch"
    unknown = dict(facts(timeline("r", whole_run(), {**paid, "usd": None})))
    assert unknown["price"] == "-, a price is not known"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"outcome": "found", "nonce": 7}, "Golden nonce 7"),
        ({"outcome": "exhausted"}, "No golden nonce exists"),
        ({"outcome": "timeout"}, "Time limit reached"),
        ({"outcome": "incomplete"}, "Incomplete: hosts failed"),
        ({"outcome": "something new"}, "something new"),
        ({}, "Not ended yet"),
    ],
)
def test_the_heading_is_the_nonce_or_the_reason_why_there_is_none(
    result: dict[str, Any], text: str
) -> None:
    assert heading(observed(whole_run(), result)).text == text


def test_the_size_names_what_was_asked_for_where_less_was_launched() -> None:
    assert heading(observed(whole_run(), RESULT)).size == "2"
    fewer = heading(observed(whole_run(), {**RESULT, "instances": 1}))
    assert (fewer.size, fewer.type) == ("1 (of 2)", "t3.micro")


def test_a_run_that_ends_by_itself_had_no_worker_to_stop() -> None:
    stop = {each.name: each for each in tiles(observed([]))}["stop"]
    assert (stop.value, stop.note) == ("-", "no worker had to be stopped")


def test_the_note_on_coverage_is_the_share_of_the_whole_space() -> None:
    assert note("coverage", of(2)) == "Together 60 % of 1 k nonces."


def test_an_instance_links_to_its_log_where_there_is_one() -> None:
    first, second = observed(whole_run(), RESULT).instances
    logs = frozenset({"Instance0.log"})
    assert history_row(first, logs).log == "logs/Instance0.log"
    row = history_row(second, logs)
    assert (row.log, row.boot, row.tested, row.stop) == ("", "1.00 s", "300", "250 ms")


def test_the_remarks_are_what_an_undisturbed_run_does_not_have() -> None:
    trouble = at(5, "host.reconnecting", 1, "i-1", reason="dropped")
    events = sorted([*whole_run(), trouble], key=lambda event: event.time)
    (remark,) = remarks(observed(events, RESULT))
    assert (remark.when, remark.who) == ("5.00 s", "Instance1")
    assert (remark.what, remark.text) == ("host reconnecting", "dropped")
    started = Event("run.started", fields=REQUEST)
    assert remarks(observed([started])) == []


def test_the_chain_of_a_run_that_resumes_others_is_told_with_the_sum() -> None:
    chained = {"chain": ["a", "b"], "tested_before": 4000, "tested_in_all": 5200}
    found = dict(facts(timeline("r", whole_run(), {**RESULT, **chained})))

    assert found["resumes"] == "a → b"
    assert (found["tested before"], found["tested in all"]) == ("4,000", "5,200")
    earlier = {**RESULT, **chained, "nonce": 116, "index": None}
    line = timeline("r", whole_run(), earlier)
    assert dict(facts(line))["found by"] == "a run that this one resumes"
