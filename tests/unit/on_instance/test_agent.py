"""The agent: its report of a worker, even after a long search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cnd import pow
from cnd.model import s3_requests, witness
from cnd.model.witness import zero_bits
from cnd.on_instance import agent, worker_events
from cnd.transport import s3_protocol


def write_events(path: Path, *events: str) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps({"event": event}) + "\n" for event in events))


def test_a_report_does_not_grow_with_the_search(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    buffer = worker_events.EventBuffer(str(path))
    write_events(path, "started", *["progress"] * 1000)
    assert buffer.read()
    assert [number for number, _ in buffer.numbered()] == [1, 1001]
    write_events(path, "progress")
    assert not buffer.read()
    write_events(path, "progress", "exhausted")
    assert buffer.read() and buffer.ended
    assert [number for number, _ in buffer.numbered()] == [1, 1003, 1004]


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    buffer = worker_events.EventBuffer(str(path))
    path.write_text('{"event": "sta')
    assert not buffer.read() and buffer.numbered() == []
    path.write_text('{"event": "started"}\n')
    assert buffer.read() and len(buffer.numbered()) == 1


def test_a_report_of_much_noise_is_limited(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.jsonl"
    buffer = worker_events.EventBuffer(str(path))
    write_events(path, *["noise"] * 5000, "failed")
    buffer.read()
    assert len(buffer.numbered()) <= worker_events.KEPT_LINES + 1
    assert buffer.ended


@pytest.mark.parametrize("instances", [1, 8, 128, 1000, 100_000])
def test_a_fleet_sends_s3_no_more_requests_than_allowed(instances: int) -> None:
    pace = s3_requests.pace(instances, polls_per_second=500.0)
    assert pace.poll >= s3_requests.FASTEST_POLL
    assert instances / pace.poll <= 500.0
    assert instances / pace.every <= 50.0
    assert pace.silence > 3 * pace.every


def test_the_control_message_says_which_instance_takes_over_a_class() -> None:
    away = {"Instance5": ["class-5-from-5"]}
    message = s3_protocol.ControlMessage(
        7, parts={"Instance3": [(5, 1005, 60.0)]}, given_away=away
    )
    record = json.loads(message.encoded())
    assert record == {
        "beat": 7,
        "stop": False,
        "parts": {"Instance3": [[5, 1005, 60.0]]},
        "given_away": {"Instance5": ["class-5-from-5"]},
    }
    assert agent.ControlMessage._fields == tuple(record)


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
    buffer = worker_events.EventBuffer(str(path), pow.DEFAULT_BLOCK, bits)
    proof = witness.Proof(bits)

    def latest_event() -> dict[str, Any]:
        buffer.read()
        latest: dict[str, Any] = json.loads(buffer.numbered()[-1][1])
        return latest

    def write(event: str, first: int, last: int) -> None:
        record = {"event": event, "shown": first, "witnesses": shown[first:last]}
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    for first in range(0, 800, 100):
        write("progress", first, first + 100)
    event = latest_event()
    assert (event["witnesses"], event["shown"]) == (shown[:800], 0)
    assert "thinned_to" not in event
    proof = proof.extended(pow.DEFAULT_BLOCK, members, event["witnesses"], most=256)
    write("progress", 800, 1600)  # not read meanwhile
    write("progress", 1600, 2200)
    write("exhausted", 2200, len(shown))
    event = latest_event()
    assert event["event"] == "exhausted"
    assert len(event["witnesses"]) <= worker_events.KEPT_WITNESSES
    proof.require_whole(event["shown"])
    proof = proof.extended(pow.DEFAULT_BLOCK, members, event["witnesses"], most=256)
    proof = proof.thinned(event["thinned_to"], 255)
    strong = [n for n in shown if zero_bits(pow.DEFAULT_BLOCK, n) >= proof.level]
    assert proof.count == len(strong)


def test_invalid_witnesses_do_not_end_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    odd = [None, "116", -5, 2**70, [1], 1.5, True]
    path.write_text(json.dumps({"event": "progress", "witnesses": odd}) + "\n")
    assert not worker_events.EventBuffer(str(path), pow.DEFAULT_BLOCK, 8).read()


@pytest.mark.parametrize("longer", [0, 200])  # than the file was before
def test_a_report_goes_on_where_a_worker_has_replaced_its_events(
    tmp_path: Path, longer: int
) -> None:
    path, bits = tmp_path / "events.jsonl", 6
    shown = [n for n in range(4000) if zero_bits(pow.DEFAULT_BLOCK, n) >= bits]

    def write(mode: str, first: int, end: int, **more: object) -> None:
        witnesses = [n for n in shown if first <= n < end]
        record = {"event": "progress", **more, "cursor": end, "witnesses": witnesses}
        with path.open(mode) as file:
            file.write(json.dumps(record) + "\n")

    buffer = worker_events.EventBuffer(str(path), pow.DEFAULT_BLOCK, bits)
    late = worker_events.EventBuffer(str(path), pow.DEFAULT_BLOCK, bits)
    for first in range(0, 2000, 100):
        write("a", first, first + 100, shown=7)
    buffer.read()
    (tmp_path / pow.GENERATION).write_text("1\n")
    write("w", 0, 3000, rotated=1, shown=30)
    for _ in range(longer):
        write("a", 3000, 3000)
    write("a", 3000, 4000, shown=40)

    for each in (buffer, late):
        each.read()
        record = json.loads(each.numbered()[-1][1])
        assert record["witnesses"] == shown
        assert (record["cursor"], record["shown"]) == (4000, 0)
        assert "rotated" not in record
