"""Lines come complete and in order, however long or many; what is kept is limited."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from cnd.model.events import Event
from cnd.transport.bounded_lines import (
    BYTES_AT_ONCE,
    LINES_AT_ONCE,
    LINES_PER_SECOND,
    NOISE_AT_ONCE,
    Allowance,
    Splitter,
    read,
)
from cnd.transport.worker_output import WorkerOutput

CHUNKS = st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\r", b"\n")))


@given(CHUNKS, st.integers(1, 40))
def test_lines_are_those_of_the_stream_cut_where_they_are_too_long(
    chunks: list[bytes], longest: int
) -> None:
    splitter, stream = Splitter(longest=longest), b"".join(chunks)
    got = [line for chunk in chunks for line in splitter.lines(chunk)]
    *whole, rest = stream.split(b"\n")
    assert got == [line[:longest] for line in whole]
    assert splitter.position == len(stream) - len(rest)
    assert splitter.dropped == sum(max(0, len(x) - longest) for x in [*whole, rest])


def test_a_line_without_an_end_takes_no_memory() -> None:
    splitter, chunk = Splitter(), 65536 * b"x"
    tracemalloc.start()
    for _ in range(2000):
        assert not list(splitter.lines(chunk))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6
    assert list(splitter.lines(b"\nand on\n"))[1] == b"and on"


def test_what_is_read_is_cut_and_the_caller_learns_of_it() -> None:
    def source(text: bytes) -> tuple[bytes, bool]:
        parts = [text[i : i + 3] for i in range(0, len(text), 3)]
        return read(lambda size: parts.pop(0) if parts else b"", 8)

    assert source(b"12345678") == (b"12345678", True)
    assert source(b"123456789") == (b"12345678", False)


def test_every_line_of_a_worker_that_reports_as_planned_is_kept() -> None:
    now = [0.0]
    allowance = Allowance(0.0, clock=lambda: now[0])
    for _ in range(24 * 3600):
        now[0] += 1
        assert allowance.keeps(2000)
    # Also when all lines of an hour come at once, after a lost connection.
    now[0] += 3600
    assert all(allowance.keeps(2000) for _ in range(3600))
    assert allowance.account() == {"dropped": 0, "bytes": 0}


def test_too_many_lines_or_bytes_are_counted_and_not_kept() -> None:
    now = [0.0]
    many, large = (Allowance(0.0, clock=lambda: now[0]) for _ in range(2))
    assert sum(many.keeps(10) for _ in range(10_000)) == LINES_AT_ONCE
    assert many.dropped == 10_000 - LINES_AT_ONCE
    assert sum(large.keeps(65536) for _ in range(100)) == BYTES_AT_ONCE // 65536
    now[0] = 10.0
    assert sum(many.keeps(10) for _ in range(10_000)) == 10 * LINES_PER_SECOND
    assert sum(many.keeps_noise(10) for _ in range(10_000)) == NOISE_AT_ONCE + 10


def output(events: list[Event], *, wanted: bool = True) -> WorkerOutput:
    allowance = Allowance(0.0, clock=lambda: 0.0)
    return WorkerOutput(0, "i-0", allowance, events.append, lambda: wanted)


def test_a_last_event_is_read_behind_any_amount_of_noise() -> None:
    events: list[Event] = []
    received = output(events)
    assert not any(received.is_last(b"noise") for _ in range(100_000))
    assert received.is_last(b'{"event": "found", "nonce": 7}')
    received.close()
    assert [e.kind for e in events if e.kind != "worker.noise"] == ["worker.found"]
    dropped = [e for e in events if "dropped" in e.fields]
    assert len(dropped) == 2
    assert dropped[-1].fields["dropped"] == 100_000 - NOISE_AT_ONCE
    assert len(events) == NOISE_AT_ONCE + 3


def test_a_host_that_sends_too_much_is_not_read_after_the_end() -> None:
    events: list[Event] = []
    received = output(events, wanted=False)
    lines = 0
    while not received.is_last(1000 * b"x"):
        lines += 1
    assert lines < 1000
