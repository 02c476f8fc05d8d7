"""The worker's ledger and its scanner: exact, whatever the order of replies."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd import pow as worker
from cnd.pow import HashlibScanner, Ledger, Search
from tests.support.vectors import VECTORS
from tests.support.waiting import eventually

BLOCK = worker.DEFAULT_BLOCK


def test_the_hash_is_the_one_of_the_report() -> None:
    """The second SHA-256 reads the 64 hex digits of the first."""
    first = hashlib.sha256(b"116COMSM0010cloud").hexdigest()
    assert worker.digest(BLOCK, 116) == hashlib.sha256(first.encode()).hexdigest()
    assert worker.digest(BLOCK, 116).startswith("00a7")


@pytest.mark.parametrize("difficulty", ["1", "2", "3", "4"])
@pytest.mark.parametrize("block", VECTORS["blocks"])
def test_the_scanner_finds_the_smallest_known_golden_nonces(
    block: str, difficulty: str
) -> None:
    known = VECTORS["blocks"][block]["smallest_golden_by_difficulty"].get(difficulty)
    if known is None:
        pytest.skip("not known for this block")
    scanner = HashlibScanner(block, int(difficulty))
    assert scanner.scan(0, 1, known) is None
    assert scanner.tested == known
    assert scanner.scan(0, 1, known + 5) == known
    assert scanner.tested == known + 1


@given(
    block=st.text(max_size=80),
    difficulty=st.integers(0, 3),
    start=st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 1000)),
    step=st.integers(1, 10**6),
    count=st.integers(1, 300),
)
def test_a_scan_is_what_the_plain_loop_finds(
    block: str, difficulty: int, start: int, step: int, count: int
) -> None:
    try:
        block.encode()
    except UnicodeEncodeError:
        return
    golden = [
        nonce
        for nonce in range(start, start + step * count, step)
        if worker.is_golden(worker.digest(block, nonce), difficulty)
    ]
    scanner = HashlibScanner(block, difficulty)
    found = scanner.scan(start, step, count)
    assert found == (golden[0] if golden else None)
    assert scanner.tested == ((golden[0] - start) // step + 1 if golden else count)


def test_difficulty_64_and_0_are_the_ends_of_the_scale() -> None:
    assert HashlibScanner(BLOCK, 64).scan(0, 1, 1000) is None
    assert HashlibScanner(BLOCK, 0).scan(5, 7, 1000) == 5


@given(
    nonces=st.integers(1, 2**64),
    of=st.integers(1, 1000),
    data=st.data(),
)
def test_the_classes_of_a_search_cover_the_space(
    nonces: int, of: int, data: st.DataObject
) -> None:
    of = min(of, nonces)
    index = data.draw(st.integers(0, of - 1))
    search = Search(BLOCK, 2, nonces, index, of)
    assert search.size == (nonces - index + of - 1) // of
    assert search.nonce(search.size - 1) < nonces <= search.nonce(search.size)


@pytest.mark.parametrize(
    "fields",
    [
        {"difficulty": 65},
        {"difficulty": -1},
        {"difficulty": 1, "nonces": 0},
        {"difficulty": 1, "nonces": 2**64 + 1},
        {"difficulty": 1, "index": 3, "of": 3},
        {"difficulty": 1, "nonces": 2, "of": 3},
        {"difficulty": 1, "index": 1, "of": 3, "start": 2},
        {"difficulty": 1, "index": 0, "of": 3, "start": -3},
        {"difficulty": 1, "block": "\ud800"},
        {"difficulty": 1, "block": "ü" * 2049},
    ],
)
def test_an_invalid_search_is_refused(fields: dict[str, object]) -> None:
    arguments = {"block": BLOCK, **fields}
    with pytest.raises(ValueError, match=r".") as caught:
        Search(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


DEEDS = ("take", "answer", "answer", "cut", "die")
MOST_TAKEN = 9  # nonces


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(0, 40),
    golden=st.sets(st.integers(0, 39), max_size=5),
    children=st.integers(1, 4),
    data=st.data(),
)
def test_the_ledger_is_exact_whatever_happens(
    size: int, golden: set[int], children: int, data: st.DataObject
) -> None:
    """Any order of replies, cut stretches and deaths: no gap, no nonce twice."""
    ledger = Ledger(size)
    held: dict[int, list[tuple[int, int]]] = {c: [] for c in range(children)}
    tested: set[int] = set()
    moves = st.integers(0, children * len(DEEDS) * MOST_TAKEN - 1)
    for _ in range(10_000):
        if ledger.decided:
            break
        # One draw: it takes a hundred times as long as what it is for.
        rest, child = divmod(data.draw(moves), children)
        rest, number = divmod(rest, len(DEEDS))
        deed = DEEDS[number]
        if deed == "take" and (got := ledger.take(child, rest + 1)):
            held[child].append(got)
        elif deed == "die":
            ledger.reclaim(child)
            held[child] = []
        elif deed in ("answer", "cut") and held[child]:
            first, count = held[child].pop(0)
            if deed == "cut":
                count = rest % count
            hits = [p for p in range(first, first + count) if p in golden]
            reach = hits[0] - first + 1 if hits else count
            now = set(range(first, first + reach))
            assert not now & tested
            tested |= now
            ledger.done(child, reach, bool(hits))
        assert ledger.tested == len(tested)
        assert set(range(ledger.cursor)) <= tested
    smallest = min((p for p in golden if p < size), default=None)
    if ledger.decided:
        assert ledger.hit == smallest
        assert set(range(size if smallest is None else smallest)) <= tested


@pytest.mark.parametrize("bits", [0, 1, 3, 4, 6, 8, 11])
def test_witnesses_are_all_that_lie_before_the_golden_nonce(bits: int) -> None:
    search = Search(BLOCK, 3, 10**6, 1, 3)
    scanner = worker.WitnessScanner(HashlibScanner, search, bits, (0,))
    golden = None
    shown: list[int] = []
    start, left = 1, 30_000
    while golden is None and left:
        golden = scanner.scan(start, 3, min(left, 999))
        shown += scanner.witnesses
        start, left = start + 3 * scanner.tested, left - scanner.tested
    hashes = {n: worker.digest(BLOCK, n) for n in range(1, start, 3)}
    strong = [n for n, h in hashes.items() if worker.zero_bits(h) >= bits]
    goldens = [n for n in strong if worker.is_golden(hashes[n], 3)]
    assert goldens[:1] == [golden]
    assert shown == [n for n in strong if n != golden]
    assert start == goldens[0] + 3  # nothing beyond it was tested


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 9)))))
def test_a_childs_answers_are_read_whole_wherever_the_pipe_has_cut_them(
    answers: list[tuple[int, list[int]]],
) -> None:
    replies = [worker.Reply(n, False, 0.5, tuple(found)) for n, found in answers]
    replies.append(worker.Reply(0, False, 0.0, failure="clFlush fails: ä"))
    data, read = b"".join(reply.packed() for reply in replies), []
    partial = b""
    for at in range(0, len(data), 7):
        got, partial = worker.unpack_replies(partial + data[at : at + 7])
        read += got
    assert (read, partial) == (replies, b"")


@pytest.mark.parametrize(("kernel", "cores"), [("hashlib", 2), ("opencl", 0)])
def test_a_limited_rate_is_that_of_all_processes_together(
    kernel: str, cores: int
) -> None:
    options = worker.WorkerOptions(worker.Search(BLOCK, 2), 2, rate=1e6)
    chosen = worker.Kernel(kernel, worker.HashlibScanner, {})
    stop = worker.StopRequest.__new__(worker.StopRequest)
    searching = worker.Worker(options, chosen, worker.Reporter(1, "", False), stop)
    searching._gpu_scanner = "gpu_scanner.py"
    core, gpu = (
        searching._scanner(worker.HashlibScanner, (0,), 0, gpus=gpus)._rate
        for gpus in (1, 4)
    )
    assert cores * core + 4 * gpu == 1e6


def test_a_worker_with_too_many_witnesses_shows_the_strongest_of_them() -> None:
    pending = worker.PendingWitnesses(BLOCK, 1)
    end, fields = 40_000, []
    for first in range(0, end, 2000):
        for nonce in range(first, first + 2000):
            if worker.zero_bits(worker.digest(BLOCK, nonce)) >= 1:
                pending.add(nonce)
        fields.append(pending.show(first + 1000, first / 20_000, first + 2000 == end))
    shown = [nonce for each in fields for nonce in each["witnesses"]]
    assert shown == sorted(set(shown))
    # After 2 s; somewhat more, as long as too few would be left.
    most = worker.WITNESSES_AT_FIRST + 2 * worker.WITNESSES_A_SECOND
    assert len(shown) <= most + 2 * worker.WITNESSES_LEFT
    assert [each["shown"] for each in fields[1:]] == [
        sum(len(each["witnesses"]) for each in fields[:i])
        for i in range(1, len(fields))
    ]
    level = fields[-1]["thinned_to"]
    strong = [
        n
        for n in range(end - 1000)
        if worker.zero_bits(worker.digest(BLOCK, n)) >= level
    ]
    assert [n for n in shown if n in set(strong)] == strong
    assert len(strong) >= worker.WITNESSES_LEFT / 2


def test_a_summary_has_the_strongest_of_all_witnesses_that_were_shown() -> None:
    pending = worker.PendingWitnesses(BLOCK, 1)
    zeros = {n: worker.zero_bits(worker.digest(BLOCK, n)) for n in range(8000)}
    for first in range(0, 8000, 1000):
        for nonce in range(first, first + 1000):
            if zeros[nonce] >= 1:
                pending.add(nonce)
        shown = pending.show(first + 1000, 100.0, False)

    summary = pending.summary()

    assert summary["shown"] == shown["shown"] + len(shown["witnesses"])
    level = summary["thinned_to"]
    assert summary["witnesses"] == [n for n in zeros if zeros[n] >= level]
    assert len(summary["witnesses"]) > worker.WITNESSES_SUMMED_UP / 4
    assert len(summary["witnesses"]) <= worker.WITNESSES_SUMMED_UP


def test_a_summary_of_few_witnesses_has_all_of_them() -> None:
    pending = worker.PendingWitnesses(BLOCK, 8)
    strong = [n for n in range(9000) if worker.zero_bits(worker.digest(BLOCK, n)) >= 8]
    for nonce in strong:
        pending.add(nonce)
    pending.show(8000, 1.0, False)

    below = [n for n in strong if n < 8000]
    assert pending.summary() == {"witnesses": below, "shown": len(below)}


def test_a_file_of_events_is_replaced_by_their_summary(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("ab", 0) as file:
        report = worker.Reporter(file.fileno(), "", False, str(tmp_path), 500)
        for cursor in range(40):
            report.event("progress", cursor=cursor)
            if report.is_full:
                report.rotate(cursor=cursor, seconds=1.0)
                rotated = cursor

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.stat().st_size < 600
    assert [each["cursor"] for each in lines] == [rotated, *range(rotated + 1, 40)]
    assert lines[0]["rotated"] == int((tmp_path / worker.GENERATION).read_text()) > 2


def test_the_last_event_is_in_the_syslog_when_the_reporter_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it takes nothing from workers that have theirs to write."""
    log = tmp_path / "syslog"
    (tmp_path / "logger").write_text(f"#!/bin/sh\nexec cat >>{log}\n")
    (tmp_path / "logger").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with (tmp_path / "out").open("ab", 0) as file:
        report = worker.Reporter(file.fileno(), "", True)
        report.event("started")
        report.last_event("stopped")
        eventually(lambda: log.exists() and "started" in log.read_text())
        assert "stopped" in (tmp_path / "out").read_text()
        assert "stopped" not in log.read_text()
        report.close(0.01)
        assert [line.split()[0] for line in log.read_text().splitlines()] == [
            "started",
            "stopped",
        ]


def test_a_stopped_child_answers_all_its_requests_at_once() -> None:
    """Its parent is woken once; each nonce that was tested is in the replies."""
    requests, ask = os.pipe()
    answers, replies = os.pipe()
    stop = [0]
    os.write(ask, worker.REQUEST.pack(0, 100) + worker.REQUEST.pack(100, 100))

    class Scanner(worker.HashlibScanner):
        def scan(self, start: int, step: int, count: int) -> int | None:
            found = super().scan(start, step, count)
            stop[0] = 1  # while the second request waits
            return found

    scanner = Scanner(BLOCK, 20, stop)
    thread = threading.Thread(
        target=worker._serve, args=(requests, replies, scanner, 1, stop)
    )
    thread.start()
    came, rest = worker.unpack_replies(os.read(answers, 65536))
    os.close(ask)
    thread.join(10)
    assert ([reply.tested for reply in came], rest) == ([100, 0], b"")
    for descriptor in (requests, answers, replies):
        os.close(descriptor)


def test_events_that_go_elsewhere_are_never_replaced(tmp_path: Path) -> None:
    with (tmp_path / "out").open("ab", 0) as file:
        report = worker.Reporter(file.fileno(), "", False)
        for cursor in range(100_000 // 40):
            report.event("progress", cursor=cursor)
        assert not report.is_full
