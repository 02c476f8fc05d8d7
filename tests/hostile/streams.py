"""What workers say, recorded from real ones; and a run that reads it as bytes."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cnd import pow as worker
from cnd.model.events import Event, from_worker
from cnd.model.plan import Plan, class_size
from cnd.model.search_state import SearchState
from cnd.run.roster import Roster


def recorded(
    plan: Plan, index: int, *words: str, start: int | None = None
) -> list[bytes]:
    """Return the lines of a real worker on a class of `plan`."""
    of_class = {
        "block": plan.block,
        "difficulty": plan.difficulty,
        "nonces": plan.nonces,
        "index": index,
        "of": plan.instances,
        "start": index if start is None else start,
        "witness-bits": plan.witness_bits,
    }
    told = [f"--{name}={value}" for name, value in of_class.items()]
    done = subprocess.run(
        [sys.executable, "-I", "-S", worker.__file__, "--no-syslog", *told, *words],
        capture_output=True,
        timeout=240,
        check=False,  # its status is its last word
    )
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


@functools.cache
def strong(plan_key: tuple[str, int, int]) -> list[int]:
    """Return the nonces with so many zero bits: block, bits, end of the space."""
    block, bits, end = plan_key
    scanner = worker.HashlibScanner(block, bits // 4)
    found, at = [], 0
    while (nonce := scanner.scan(at, 1, end - at)) is not None:
        at = nonce + 1
        if worker.zero_bits(worker.digest(block, nonce)) >= bits:
            found.append(nonce)
    return found


class Honest:
    """A worker that tells the truth about a class, in so many steps."""

    def __init__(self, plan: Plan, index: int, start: int | None = None) -> None:
        self.plan, self.index, self.of = plan, index, plan.instances
        self.start = index if start is None else start
        self.left = class_size(plan.nonces, self.start, self.of)
        assert plan.witness_bits is not None
        key = (plan.block, plan.witness_bits, plan.nonces)
        self.mine = [n for n in strong(key) if n >= self.start and n % self.of == index]
        goldens = [n for n in self.mine if self._is_golden(n)]
        self.hit = goldens[0] if goldens else None

    def _is_golden(self, nonce: int) -> bool:
        digits = worker.digest(self.plan.block, nonce)
        return worker.is_golden(digits, self.plan.difficulty)

    def lines(self, steps: int = 10) -> list[bytes]:
        told: list[dict[str, Any]] = [{"event": "started", "kernel": "hashlib"}]
        whole = self.left
        if self.hit is not None:
            whole = (self.hit - self.start) // self.of
        shown = 0
        for step in range(1, steps + 1):
            tested = whole * step // steps
            cursor = self.start + tested * self.of
            new = [n for n in self.mine[shown:] if n < cursor and n != self.hit]
            fields: dict[str, Any] = {"cursor": cursor, "tested": tested, "rate": 1e5}
            fields |= {"witnesses": new, "shown": shown}
            kind = "progress" if step < steps else "exhausted"
            if step == steps and self.hit is not None:
                kind = "found"
                fields |= {"nonce": self.hit, "tested": tested + 1}
            told.append({"event": kind, **fields})
            shown += len(new)
        return [json.dumps(each).encode() for each in told]


def heard(lines: Iterable[bytes], index: int, host: str) -> list[Event]:
    """Return events as a host's thread makes them of what it reads."""
    text = (line.decode("utf-8", "replace") for line in lines)
    return [from_worker(each, index=index, host=host) for each in text]


class Story:
    """A run's way from events to its decision, as `Job` goes it, without a cloud."""

    def __init__(self, plan: Plan, *, checked: Event | None = None) -> None:
        self.search, self.roster = SearchState(plan), Roster()
        self.refuted_: list[Event] = []
        self._spare = 0
        if checked:
            self.see(checked)
        for i in range(plan.instances):
            self.see(Event("instance.launched", i, f"i-{i}", {"type": "t3.micro"}))
            self.see(Event("instance.ready", i, f"i-{i}"))

    def see(self, event: Event) -> None:
        self.roster.note(event)
        if objection := self.search.see(event):
            self.refuted_.append(objection)
            self.see(objection)

    def hand_over(self, lines: Callable[[int, int], Sequence[bytes]]) -> bool:
        """Give lost classes to a new host; return whether there were any."""
        failed = self.search.failed
        for index in failed:
            host = f"i-spare{self._spare}"
            self._spare += 1
            start = self.search.resumption(index)
            self.see(Event("class.handed_over", index, host, {"start": start}))
            for event in heard(lines(index, start), index, host):
                self.see(event)
            self.see(Event("host.done", index, host))
        return bool(failed)
