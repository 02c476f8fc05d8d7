"""Five hundred hostile streams, as bytes, through a run's whole state machine."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cnd import pow as worker
from cnd.model.outcome import Ending
from cnd.model.plan import Plan
from cnd.model.witness import bits_for
from cnd.run import first_nonces
from tests.hostile.streams import Honest, Story, heard, recorded

# One nonce is golden, in class 2, of which a tenth is searched until there.
NONCES, INSTANCES, GOLDEN = 450_000, 3, 46697
BITS = bits_for(5, NONCES, INSTANCES, 60.0)
PLAN = Plan(5, INSTANCES, 60.0, nonces=NONCES, witness_bits=BITS)
SEEDS = 500
MOST_KEPT = 100_000  # bytes that a search state may hold, whatever it took in
ODD: tuple[Any, ...] = (
    *(-1, 0, 1, 2**31, 2**64, 10**19, NONCES, NONCES + 1, 1e300, -0.0, 0.5),
    *(None, True, False, "", "116", "\ud800", [], [1], {}, [[[[[[[[[[1]]]]]]]]]]),
    *([2, 1], [GOLDEN], [None], list(range(5000)), "x" * 5000),
)
RAW: tuple[bytes, ...] = (
    *(
        b"",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"{",
        b'{"event": "progress", "cursor": NaN}',
    ),
    b'{"event": "progress", "tested": 1' + 5000 * b"0" + b"}",
    5000 * b"[",
    b'{"a":' * 5000,
    b'{"event": "refuted", "nonce": 1}',
    b'{"event": ["found"], "nonce": 46697}',
)

Mutation = Callable[[random.Random, list[bytes]], list[bytes]]


def cut(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    at = chance.randrange(len(lines))
    line = lines[at]
    return [*lines[:at], line[: chance.randrange(len(line) + 1)], *lines[at + 1 :]]


def dropped(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    at = chance.randrange(len(lines))
    return lines[:at] + lines[at + chance.randint(1, 3) :] or lines


def swapped(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    a, b = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return lines


def doubled(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    at = chance.randrange(len(lines))
    return lines[: at + 1] + lines[at:]


def garbled(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    at = chance.randrange(len(lines) + 1)
    return [*lines[:at], chance.choice(RAW), *lines[at:]]


def changed(change: Callable[[random.Random, dict[str, Any]], None]) -> Mutation:
    """Return a mutation that changes one event of a stream."""

    def mutation(chance: random.Random, lines: list[bytes]) -> list[bytes]:
        at = chance.randrange(len(lines))
        try:
            event = json.loads(lines[at])
        except (ValueError, RecursionError):
            return lines
        if isinstance(event, dict):
            change(chance, event)
            lines[at] = json.dumps(event).encode()
        return lines

    return mutation


def odd_field(chance: random.Random, event: dict[str, Any]) -> None:
    names = ("nonce", "cursor", "tested", "witnesses", "shown", "thinned_to", "time")
    name = chance.choice([*event, *names, "index", "host", "kind", "verdict"])
    event[name] = chance.choice(ODD)


def nudged(chance: random.Random, event: dict[str, Any]) -> None:
    for name in ("cursor", "tested", "nonce"):
        if isinstance(event.get(name), int):
            event[name] += chance.choice((-3, 3, 1, 3000, 90_000, NONCES))


def end_claimed(chance: random.Random, event: dict[str, Any]) -> None:
    """The lie that matters: it is exhausted, with the numbers that belong to it."""
    size = NONCES // INSTANCES
    index = chance.randrange(INSTANCES)
    event |= {"event": "exhausted", "cursor": NONCES + index, "tested": size}


def far_ahead(chance: random.Random, event: dict[str, Any]) -> None:
    """A cursor beyond what was tested: the next worker would begin there."""
    done = chance.randrange(NONCES // INSTANCES)
    event |= {"event": "progress", "cursor": 2 + 3 * done, "tested": done}


def false_find(chance: random.Random, event: dict[str, Any]) -> None:
    nonce = chance.choice((0, 2, 116, GOLDEN - 3, GOLDEN + 1, 501_276, -GOLDEN))
    event |= {"event": "found", "nonce": nonce}


def other_kind(chance: random.Random, event: dict[str, Any]) -> None:
    kinds = ("found", "exhausted", "timeout", "stopped", "failed", "refuted", "sung")
    event["event"] = chance.choice(kinds)


MUTATIONS: tuple[Mutation, ...] = (
    *(cut, dropped, swapped, doubled, garbled),
    *map(changed, (odd_field, nudged, end_claimed, far_ahead, false_find, other_kind)),
)


@pytest.fixture(scope="module")
def real() -> list[list[bytes]]:
    """What real workers said of each class."""
    words = ("--rate", "300000", "--progress", "0.05", "--processes", "1")
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda i: recorded(PLAN, i, *words), range(INSTANCES)))


def mutated(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    for _ in range(chance.randint(1, 8)):
        lines = chance.choice(MUTATIONS)(chance, list(lines)) or lines
    return lines


def test_no_hostile_stream_makes_a_run_say_what_is_false(
    real: list[list[bytes]],
) -> None:
    checked = first_nonces.first_nonces(PLAN)
    index = GOLDEN % INSTANCES
    real = [*real[:index], without_what_is_beyond(real[index]), *real[index + 1 :]]
    ends = []
    for seed in range(SEEDS):
        chance = random.Random(seed)
        # Half of them where nothing was tested here: the law alone has to do.
        run = Story(PLAN, checked=checked if seed % 2 else None)
        hostile = chance.sample(range(INSTANCES), chance.randint(1, INSTANCES))
        streams = {
            i: heard(mutated(chance, real[i]) if i in hostile else real[i], i, f"i-{i}")
            for i in range(INSTANCES)
        }
        while any(streams.values()):
            index = chance.choice([i for i, left in streams.items() if left])
            run.see(streams[index].pop(0))

        def again(
            index: int, start: int, chance: random.Random = chance
        ) -> list[bytes]:
            lines = Honest(PLAN, index, start).lines()
            return mutated(chance, lines) if chance.random() < 0.3 else lines

        for _ in range(10):
            if run.search.outcome or not run.hand_over(again):
                break
        run.search.settle()
        ends.append(_require_truth(run, seed))
        assert len(pickle.dumps(run.search.__dict__)) < MOST_KEPT, seed
    # Most lies cost their hosts the class, and the answer is found elsewhere.
    assert ends.count(Ending.FOUND) > SEEDS / 2


def without_what_is_beyond(lines: list[bytes]) -> list[bytes]:
    """Return a stream without the witnesses above the golden nonce.

    Some worker searches on before its find is known, and shows what it met there.  With
    that it could hide its find: work is proved, not honesty (docs/guarantees.md).
    """
    events = [json.loads(line) for line in lines]
    for event in events:
        if shown := event.get("witnesses"):
            event["witnesses"] = [nonce for nonce in shown if nonce <= GOLDEN]
    return [json.dumps(event).encode() for event in events]


def _require_truth(run: Story, seed: int) -> Ending | None:
    outcome = run.search.outcome
    if outcome is None:
        return None
    assert outcome.ending is not Ending.EXHAUSTED, f"seed {seed}: {GOLDEN} was hidden"
    if outcome.ending is Ending.FOUND:
        assert outcome.nonce is not None, seed
        digits = worker.digest(PLAN.block, outcome.nonce)
        assert worker.is_golden(digits, PLAN.difficulty), seed
        assert outcome.nonce % INSTANCES == outcome.index, seed
    for each in run.search.coverage:
        assert isinstance(each["tested"], int), seed
        assert each["tested"] >= 0, seed
    return outcome.ending


@pytest.mark.parametrize("last", ["failed", "timeout"])
def test_a_golden_nonce_that_is_shown_as_a_witness_is_not_passed_over(
    last: str,
) -> None:
    index = GOLDEN % INSTANCES
    honest = Honest(PLAN, index)
    witnesses = [nonce for nonce in honest.mine if nonce <= GOLDEN]
    tested = GOLDEN // INSTANCES + 1
    told = {"cursor": GOLDEN + INSTANCES, "tested": tested, "witnesses": witnesses}
    events = [{"event": "progress", **told, "shown": 0}, {"event": last}]
    if last == "timeout":  # or above the cursor of a last event
        events = [{"event": last, **told, "shown": 0, "cursor": index, "tested": 0}]
    run = Story(PLAN)
    for event in heard([json.dumps(each).encode() for each in events], index, "i-2"):
        run.see(event)

    assert [each.index for each in run.refuted_] == [index]
    assert f"{GOLDEN} is golden" in str(run.refuted_[0].fields)
    assert run.search.resumption(index) == index
    assert run.hand_over(lambda index, start: Honest(PLAN, index, start).lines())
    assert run.search.outcome is not None
    assert run.search.outcome.nonce == GOLDEN


def test_real_streams_are_believed_as_they_are(real: list[list[bytes]]) -> None:
    for checked in (None, first_nonces.first_nonces(PLAN)):
        run = Story(PLAN, checked=checked)
        for index, lines in enumerate(real):
            for event in heard(lines, index, f"i-{index}"):
                run.see(event)
        assert run.refuted_ == []
        assert run.search.outcome is not None
        assert run.search.outcome.nonce == GOLDEN
