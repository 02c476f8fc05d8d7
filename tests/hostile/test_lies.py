"""Workers that lie consistently: none is believed, and no honest one is accused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnd import pow as worker
from cnd.kernel import library
from cnd.model.events import Event
from cnd.model.outcome import Ending
from cnd.model.plan import Plan
from cnd.model.search_state import evidence, unproved
from cnd.model.witness import bits_for
from cnd.run import first_nonces
from tests.conftest import a_state
from tests.fault.truth import Victim
from tests.hostile.streams import Honest, Story, heard, recorded
from tests.kernel.programs import MACHINE
from tests.support.processes import ended
from tests.support.runs import Run
from tests.support.terminal import clean_environment
from tests.support.waiting import eventually

NONCES, INSTANCES = 300_000, 2
# No nonce of the space is golden, and nothing of it was tested here: the law alone.
PLAN = Plan(
    8,
    INSTANCES,
    60.0,
    nonces=NONCES,
    witness_bits=bits_for(8, NONCES, INSTANCES, 60.0),
)
SIZE = NONCES // INSTANCES


def end(index: int, **more: Any) -> dict[str, Any]:
    return {"event": "exhausted", "cursor": NONCES + index, "tested": SIZE, **more}


def told(lines: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def lied(*events: dict[str, Any], plan: Plan = PLAN, index: int = 1) -> Story:
    """Return a run that heard this of one class."""
    run = Story(plan)
    lines = [json.dumps(event).encode() for event in events]
    for event in heard(lines, index, f"i-{index}"):
        run.see(event)
    return run


def require_dropped(run: Story, why: str, index: int = 1) -> None:
    """The liar has lost its class, which begins anew; nothing of it counts."""
    assert [event.kind for event in run.refuted_] == ["worker.refuted"]
    assert why in str(run.refuted_[0].fields["reason"])
    assert run.search.failed == [index]
    assert run.search.resumption(index) == index
    assert run.search.coverage[index]["tested"] == 0
    proof = evidence(run.search)
    assert proof is not None and proof["witnesses"] == 0
    other = 1 - index
    for event in heard(Honest(run.search.plan, other).lines(), other, f"i-{other}"):
        run.see(event)
    run.search.settle()
    assert run.search.outcome is not None
    assert run.search.outcome.ending is Ending.INCOMPLETE


@pytest.fixture(scope="module")
def honest() -> list[dict[str, Any]]:
    """What a real worker says of class 1."""
    return told(recorded(PLAN, 1, "--rate", "400000", "--progress", "0.05"))


def test_an_end_without_witnesses_is_a_lie() -> None:
    require_dropped(lied(end(1)), "witnesses shown")
    require_dropped(lied(end(1, witnesses=[], shown=0)), "0 witnesses shown")


def test_a_worker_that_searches_half_and_claims_all_is_found_out() -> None:
    first = [e for e in told(Honest(PLAN, 1).lines()) if e["event"] != "exhausted"][:6]
    last = {"witnesses": [], "shown": sum(len(e.get("witnesses", ())) for e in first)}
    require_dropped(lied(*first, end(1, **last)), "are to be expected")


def test_a_worker_that_tests_every_other_nonce_is_found_out() -> None:
    shown = Honest(PLAN, 1).mine[::2]
    require_dropped(lied(end(1, witnesses=shown, shown=0)), "are to be expected")


def test_a_cursor_ahead_of_its_witnesses_is_a_lie_before_any_hand_over() -> None:
    far = {"event": "progress", "cursor": 200_001, "tested": 100_000}
    require_dropped(lied(far), "witnesses shown")


def test_what_nothing_vouches_for_is_searched_again_after_a_loss() -> None:
    """A leap too small to be refuted gains nothing: the next begins before it."""
    leap = {"event": "progress", "cursor": 20_001, "tested": 10_000, "witnesses": []}
    run = lied(leap)
    assert run.refuted_ == []
    run.see(Event("host.failed", 1, "i-1", {"reason": "gone"}))
    assert run.search.resumption(1) == 1
    shown = Honest(PLAN, 1).mine[:9]
    run = lied({**leap, "witnesses": shown})
    run.see(Event("host.failed", 1, "i-1", {"reason": "gone"}))
    assert run.search.resumption(1) == shown[-1] + INSTANCES


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda mine: [*mine[:5], mine[5] - 2, *mine[6:]], "is no witness"),
        (lambda mine: [mine[0], *mine], "comes after"),
        (lambda mine: mine[::-1], "comes after"),
        (lambda mine: Honest(PLAN, 0).mine, "lies outside"),
        (lambda mine: [*mine, mine[-1] + 2 * NONCES], "lies outside"),
        (lambda mine: [*mine, str(mine[-1])], "no nonce"),
        (lambda mine: {"0": mine}, "no short list"),
        (lambda mine: mine * 20, "no short list"),
    ],
    ids=[
        "forged",
        "repeated",
        "backwards",
        "foreign",
        "beyond",
        "text",
        "map",
        "flood",
    ],
)
def test_false_witnesses_are_a_lie_at_once(change: Any, why: str) -> None:
    shown = change(Honest(PLAN, 1).mine)
    lie = {"event": "progress", "cursor": NONCES + 1, "tested": SIZE}
    require_dropped(lied({**lie, "witnesses": shown}), why)


def test_witnesses_that_were_shown_before_count_once() -> None:
    mine = Honest(PLAN, 1).mine
    half = mine[: len(mine) // 2]
    part = {"event": "progress", "cursor": half[-1] + 2, "tested": half[-1] // 2 + 1}
    again = end(1, witnesses=half, shown=0)
    require_dropped(lied({**part, "witnesses": half}, again), "are to be expected")


def test_a_liar_counts_no_more_whatever_it_says_then(honest: list[Any]) -> None:
    far = {"event": "progress", "cursor": 200_001, "tested": 100_000}
    require_dropped(lied(far, *honest, far), "witnesses shown")


def test_a_golden_nonce_that_is_known_here_cannot_be_kept_back() -> None:
    """Not even by a worker that has searched all the rest."""
    plan = Plan(2, 2, 60.0, nonces=200, witness_bits=bits_for(2, 200, 2, 60.0))
    mine = [n for n in Honest(plan, 0).mine if n != 116]
    claim = {"cursor": 200, "tested": 100, "witnesses": mine, "shown": 0}
    for kind in ("exhausted", "progress", "timeout"):
        run = Story(plan, checked=first_nonces.first_nonces(plan))
        (event,) = heard([json.dumps({"event": kind, **claim}).encode()], 0, "i-0")
        run.see(event)
        assert "116 is golden" in str(run.refuted_[0].fields["reason"])
        assert run.search.resumption(0) == 0


def test_more_than_the_witnesses_prove_is_not_counted_above_the_cursor() -> None:
    claim = {"event": "timeout", "cursor": 1, "tested": SIZE, "witnesses": []}
    run = lied(claim)
    assert run.refuted_ == []
    counted = run.search.coverage[1]["tested"]
    assert isinstance(counted, int) and counted < SIZE / 4


def test_events_that_were_lost_cost_the_class_and_are_no_false_claim(
    honest: list[Any],
) -> None:
    lost = next(i for i, event in enumerate(honest) if event.get("witnesses"))
    run = lied(*honest[:lost], *honest[lost + 1 :])
    assert [event.kind for event in run.refuted_] == ["worker.failed"]
    assert "came here" in str(run.refuted_[0].fields["reason"])
    assert (run.search.failed, run.search.resumption(1)) == ([1], 1)


# --- no honest worker is accused


def kernels() -> list[str]:
    path = library(MACHINE)
    found = worker.list_kernels(worker.load_library(str(path))) if path else []
    return ["hashlib", *(name for name, supported in found if supported)]


@pytest.mark.parametrize("kernel", kernels())
@pytest.mark.parametrize("processes", ["1", "3"])
def test_an_honest_worker_is_believed_with_every_kernel(
    kernel: str, processes: str
) -> None:
    words = ("--kernel", kernel, "--processes", processes, "--progress", "0.02")
    run = Story(PLAN)
    for index in range(INSTANCES):
        for event in heard(recorded(PLAN, index, *words), index, f"i-{index}"):
            run.see(event)
    run.search.settle()
    assert run.refuted_ == []
    assert run.search.outcome is not None
    assert run.search.outcome.ending is Ending.EXHAUSTED
    proof = evidence(run.search)
    assert proof is not None
    shown = sum(len(Honest(PLAN, i).mine) for i in range(INSTANCES))
    assert (proof["witnesses"], run.search.tested) == (shown, NONCES)
    assert proof["tested_at_least"] > 0.8 * NONCES  # type: ignore[operator]


def test_an_honest_worker_is_believed_after_a_hand_over_and_events_read_twice() -> None:
    """As after `attach`, where part of what was said is read again."""
    words = ("--rate", "400000", "--progress", "0.03")
    lines = recorded(PLAN, 1, *words)
    begun = (i for i, event in enumerate(told(lines)) if event.get("cursor", 0) > 1)
    lines = lines[: max(6, next(begun) + 1)]
    run = Story(PLAN)
    for event in heard([*lines, *lines[1:], *lines[3:]], 1, "i-1"):
        run.see(event)
    run.see(Event("host.failed", 1, "i-1", {"reason": "gone"}))
    start = run.search.resumption(1)
    assert start > 1
    rest = recorded(PLAN, 1, *words, start=start)
    assert run.hand_over(lambda index, start: [*rest[:4], *rest[1:]])
    for event in heard(recorded(PLAN, 0), 0, "i-0"):
        run.see(event)
    run.search.settle()
    assert run.refuted_ == []
    assert run.search.outcome is not None
    assert run.search.outcome.ending is Ending.EXHAUSTED
    assert run.search.tested - run.search.repeated == NONCES


def test_a_run_of_before_has_no_evidence_and_is_taken_up_as_it_was() -> None:
    plan = Plan(8, 2, 60.0, nonces=NONCES)
    run = lied({"event": "progress", "cursor": 200_001, "tested": 100_000}, plan=plan)
    assert run.refuted_ == []
    assert run.search.resumption(1) == 200_001
    assert (evidence(run.search), unproved(run.search.plan)[:11]) == (
        None,
        "this search",
    )


# --- the whole program


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """A user whose hosts take seconds for what others do at once."""
    with a_state(tmp_path_factory, "slow") as state:
        environment = {**clean_environment(state), "CND_LOCAL_RATE": "10"}
        yield Victim(state, environment, tmp_path_factory.mktemp("folder"))


@pytest.mark.parametrize(
    "lie",
    [
        {"event": "exhausted", "cursor": 200, "tested": 100},
        {"event": "progress", "cursor": 150, "tested": 75},
        {"event": "timeout"},
        {"event": "stopped"},
    ],
    ids=["exhausted", "a false cursor", "time is over", "stopped"],
)
def test_a_forged_events_file_does_not_hide_the_answer(
    slow: Victim, lie: dict[str, object]
) -> None:
    words = ("start", "--d", "2", "--n", "2", "--nonces", "200", "--t", "60", "--json")
    run = Run(slow, *words)
    eventually(lambda: run.told("worker.started"))
    hosts = {e["index"]: e["host"] for e in run.told("instance.launched")}
    files = slow.cloud().folder / "hosts" / hosts[0]

    def written() -> list[Path]:
        return list(files.rglob("class-0-from-0/events.jsonl"))

    eventually(written)
    with written()[0].open("a") as file:
        file.write(json.dumps(lie) + "\n")
    code, out, err = ended(run.process)
    assert code == 0, err
    assert json.loads(out)["nonce"] == 116
    failed = run.told("worker.refuted") + run.told("worker.failed")
    assert [event["host"] for event in failed] == [hosts[0]]
    assert run.told("class.handed_over")[0]["start"] == 0
