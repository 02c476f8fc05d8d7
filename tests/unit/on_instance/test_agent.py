"""The agent: what it reports of a worker, however long that searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cnd import pow
from cnd.model import witness
from cnd.model.witness import zero_bits
from cnd.on_instance import agent
from cnd.transport import s3_protocol


def said(path: Path, *events: str) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps({"event": event}) + "\n" for event in events))


def test_a_report_does_not_grow_with_the_search(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = agent.EventBuffer(str(path))
    said(path, "started", *["progress"] * 1000)
    assert lines.read()
    assert [number for number, _ in lines.numbered()] == [1, 1001]
    said(path, "progress")
    assert not lines.read()
    said(path, "progress", "exhausted")
    assert lines.read() and lines.ended
    assert [number for number, _ in lines.numbered()] == [1, 1003, 1004]


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = agent.EventBuffer(str(path))
    path.write_text('{"event": "sta')
    assert not lines.read() and lines.numbered() == []
    path.write_text('{"event": "started"}\n')
    assert lines.read() and len(lines.numbered()) == 1


def test_a_worker_that_babbles_costs_no_more_than_its_last_words(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.jsonl"
    lines = agent.EventBuffer(str(path))
    said(path, *["noise"] * 5000, "failed")
    lines.read()
    assert len(lines.numbered()) <= agent.KEPT_LINES + 1
    assert lines.ended


@pytest.mark.parametrize("instances", [1, 8, 128, 1000, 100_000])
def test_a_fleet_never_asks_more_of_s3_than_it_may(instances: int) -> None:
    pace = s3_protocol.pace(instances, polls_per_second=500.0)
    assert pace.poll >= s3_protocol.FASTEST_POLL
    assert instances / pace.poll <= 500.0
    assert instances / pace.every <= 50.0
    assert pace.silence > 3 * pace.every


def test_the_word_says_who_takes_over_what() -> None:
    away = {"Instance5": ["class-5-from-5"]}
    word = s3_protocol.ControlMessage(
        7, parts={"Instance3": [(5, 1005, 60.0)]}, given_away=away
    )
    told = json.loads(word.encoded())
    assert told == {
        "beat": 7,
        "stop": False,
        "parts": {"Instance3": [[5, 1005, 60.0]]},
        "given_away": {"Instance5": ["class-5-from-5"]},
    }
    assert agent.ControlMessage._fields == tuple(told)


def test_a_report_with_a_log_that_grows_in_json_still_fits() -> None:
    report = {"log": "\x01" * (8 << 20), "log_missing": 0, "parts": {}}
    data = agent.packed(report)
    assert len(data) <= agent.MOST_REPORT
    assert json.loads(data)["log_missing"] is None
    assert json.loads(data)["log"]


def test_a_report_has_every_witness_or_the_strongest_of_many(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    members, bits = range(20_000), 3
    shown = [n for n in members if zero_bits(pow.DEFAULT_BLOCK, n) >= bits]
    lines = agent.EventBuffer(str(path), pow.DEFAULT_BLOCK, bits)
    proof = witness.Proof(bits)

    def told() -> dict[str, Any]:
        lines.read()
        latest: dict[str, Any] = json.loads(lines.numbered()[-1][1])
        return latest

    def say(event: str, first: int, last: int) -> None:
        record = {"event": event, "shown": first, "witnesses": shown[first:last]}
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    for first in range(0, 800, 100):
        say("progress", first, first + 100)
    event = told()
    assert (event["witnesses"], event["shown"]) == (shown[:800], 0)
    assert "thinned_to" not in event
    proof = proof.extended(pow.DEFAULT_BLOCK, members, event["witnesses"])
    say("progress", 800, 1600)  # not read meanwhile
    say("progress", 1600, 2200)
    say("exhausted", 2200, len(shown))
    event = told()
    assert event["event"] == "exhausted"
    assert len(event["witnesses"]) <= agent.KEPT_WITNESSES
    proof.require_whole(event["shown"])
    proof = proof.extended(pow.DEFAULT_BLOCK, members, event["witnesses"])
    proof = proof.thinned(event["thinned_to"], 255)
    strong = [n for n in shown if zero_bits(pow.DEFAULT_BLOCK, n) >= proof.level]
    assert proof.count == len(strong)


def test_witnesses_that_are_none_do_not_end_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    odd = [None, "116", -5, 2**70, [1], 1.5, True]
    path.write_text(json.dumps({"event": "progress", "witnesses": odd}) + "\n")
    assert not agent.EventBuffer(str(path), pow.DEFAULT_BLOCK, 8).read()
