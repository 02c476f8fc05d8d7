"""How far one residue class is, by what its worker reports, once that is checked.

One rule: a report that an honest worker cannot send raises `FalseClaim` and changes
nothing.  A worker of CND proves by witnesses what it has tested (`witness.py`), and
must report the golden nonces among those that were checked here
(`cnd.run.first_nonces`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cnd.model import witness
from cnd.model.events import LAST_WORDS, Event, amount
from cnd.model.plan import Plan, class_size
from cnd.model.witness import FalseClaim, Proof

MOST_TEXT = 200  # characters of a worker's own text that are kept


@dataclass(frozen=True)
class ClassProgress:
    """How far one residue class is; all its nonces below `cursor` were tested."""

    cursor: int
    host: str = ""  # the instance that searches it now
    tested: int = 0  # by its present worker
    before: int = 0  # by the workers before it
    repeated: int = 0  # of all these, tested twice because of a hand-over
    lines: int = 0  # that its present worker has sent
    start: int = 0  # where its present worker began
    rate: float = 0.0  # nonces/s, as last reported
    kernel: str = ""
    started: bool = False
    counted: bool = False  # whether a worker of it has reported how much it tested
    ended: str = ""  # "found", "exhausted", "timeout", "stopped" or "failed"
    trouble: str = ""  # why it failed
    distrusted: bool = False  # its present worker made a false claim: nothing counts
    proof: Proof | None = None  # of its present worker
    shown: Proof | None = None  # of the workers before it

    @property
    def whole_proof(self) -> Proof:
        """The proof of all workers that have searched the class."""
        assert self.proof is not None
        return self.shown.plus(self.proof) if self.shown else self.proof

    def is_counted(self, plan: Plan) -> bool:
        """Whether it is known how much was tested; CND's own worker reports it."""
        return self.counted or not (plan.script and self.started)


def updated(
    plan: Plan, progress: ClassProgress, event: Event, golden: Sequence[int]
) -> ClassProgress:
    """Return how far a class is after an event of its worker.

    Args:
        golden: the nonces of the class that are known to be golden, ascending.

    Raises:
        FalseClaim: the event cannot be true.
        LostWitnesses: some of the worker's events were lost.
    """
    fields, start, step = event.fields, progress.start, plan.instances
    left = _left(plan, progress)
    changes: dict[str, object] = {"lines": progress.lines + 1}
    if event.kind == "worker.exhausted":
        _require_end(plan, progress, event)
    cursor = _bounded(fields.get("cursor"), progress.cursor, start + left * step)
    if event.kind == "worker.found" and "left_in" not in fields:
        # It is the smallest of its class.
        cursor = max(cursor, int(fields["nonce"]))
    tested = _bounded(fields.get("tested"), progress.tested, left)
    below = -((start - cursor) // step)  # nonces of the class
    _require_no_golden(golden, start, cursor, event)
    changes["cursor"] = start + below * step
    changes["tested"] = max(tested, below)
    if progress.proof is not None:
        proof = _proved(plan, progress, event, start + below * step)
        above = _with_those_above(plan, progress, proof, event)
        p = witness.chance(proof.level, plan.difficulty)
        if witness.is_implausible(below, proof.count, p):
            claim = f"{below} nonces are said to be tested, {proof.count} witnesses"
            raise FalseClaim(f"{claim} shown: {below * p:.0f} are to be expected")
        least = max(below, progress.tested)
        counted = witness.most_plausible(least, max(tested, least), above.count, p)
        # The worker after a failed one begins where the proof below the cursor ends.
        whole = proof if event.kind == "worker.failed" else above
        changes |= {"proof": whole, "tested": counted}
    if (rate := amount(fields.get("rate"))) is not None:
        changes["rate"] = rate
    if isinstance(fields.get("tested"), int):
        changes["counted"] = True
    return replace(progress, **changes, **_other_changes(event))  # type: ignore[arg-type]


def handed_over(
    plan: Plan, progress: ClassProgress, host: str, checked: int, index: int
) -> ClassProgress:
    """Return how far a class is when `host` goes on with it; see `resumption`."""
    start = resumption(plan, progress, checked, index)
    below = (start - progress.start) // plan.instances
    return ClassProgress(
        cursor=start,
        start=start,
        host=host,
        before=progress.before + progress.tested,
        repeated=progress.repeated + max(0, progress.tested - below),
        kernel=progress.kernel,
        counted=progress.counted,
        proof=progress.proof and Proof(progress.proof.bits),
        shown=progress.proof and progress.whole_proof,
    )


def resumption(plan: Plan, progress: ClassProgress, checked: int, index: int) -> int:
    """Return the nonce from which another worker is to go on with class `index`.

    Args:
        checked: all golden nonces below it are known.
    """
    step = plan.instances
    if progress.proof is None:
        return progress.cursor
    known = index + step * class_size(checked, index, step)
    last = progress.proof.last  # a nonce of the class, or -1: none was shown
    proved = last + step if last >= 0 else progress.start
    return min(progress.cursor, max(progress.start, proved, known))


def failed(progress: ClassProgress, reason: str) -> ClassProgress:
    """Return a class whose worker was lost, unless its worker has ended before."""
    if progress.ended:
        return progress
    return replace(progress, ended="failed", trouble=reason, rate=0.0)


def distrusted(progress: ClassProgress, reason: str) -> ClassProgress:
    """Return a class whose worker made a false claim: back where it got the class."""
    return replace(
        progress,
        cursor=progress.start,
        tested=0,
        proof=progress.proof and Proof(progress.proof.bits),
        ended="failed",
        distrusted=True,
        trouble=f"false claim: {reason}",
        rate=0.0,
    )


def first_golden(golden: Sequence[int], start: int, end: int) -> int | None:
    """Return the first of `golden`, ascending, from `start` on and below `end`."""
    first = bisect_left(golden, start)
    return golden[first] if golden[first:] and golden[first] < end else None


def concealed(nonce: int) -> str:
    """Return the reason of an objection: a worker has passed over a golden nonce."""
    return f"{nonce} is golden, and was said to be tested"


def _proved(plan: Plan, progress: ClassProgress, event: Event, cursor: int) -> Proof:
    """Return the proof of a class with the witnesses below `cursor`."""
    assert progress.proof is not None
    shown = event.fields.get("witnesses", [])
    if not isinstance(shown, list) or len(shown) > witness.MOST_AT_ONCE:
        raise FalseClaim("its witnesses are no short list")
    progress.proof.require_whole(event.fields.get("shown"))
    if event.kind in LAST_WORDS:
        shown = [each for each in shown if not _is_above(each, cursor)]
    members = _members(plan, progress, cursor)
    proof = progress.proof.extended(plan.block, members, shown)
    if (bits := event.fields.get("thinned_to")) is not None:
        proof = proof.thinned(bits, 4 * plan.difficulty - 1)
    return proof


def _with_those_above(
    plan: Plan, progress: ClassProgress, proof: Proof, event: Event
) -> Proof:
    """Return a proof with the witnesses above the cursor that a last event shows."""
    if event.kind not in LAST_WORDS:
        return proof
    members = _members(plan, progress, plan.nonces)
    return proof.extended(plan.block, members, event.fields.get("witnesses", []))


def _members(plan: Plan, progress: ClassProgress, end: int) -> range:
    return range(progress.start, min(end, plan.nonces), plan.instances)


def _require_no_golden(
    golden: Sequence[int], start: int, cursor: int, event: Event
) -> None:
    """Raise `FalseClaim` if a golden nonce lies where a worker says there is none."""
    if event.kind == "worker.found":
        cursor = int(event.fields["nonce"])
    nonce = first_golden(golden, start, cursor)
    if nonce is not None:
        raise FalseClaim(concealed(nonce))


def _require_end(plan: Plan, progress: ClassProgress, event: Event) -> None:
    """Raise `FalseClaim` if a class is not exhausted although its worker says so."""
    left = _left(plan, progress)
    cursor, tested = event.fields.get("cursor"), event.fields.get("tested")
    at_end = isinstance(cursor, int) and cursor >= plan.nonces
    if not at_end or tested != left or isinstance(tested, bool):
        claim = repr(tested)[:MOST_TEXT]
        raise FalseClaim(f"exhausted, but {claim} of {left} nonces were tested")


def _left(plan: Plan, progress: ClassProgress) -> int:
    """Return how many nonces a class had left when its present worker began."""
    return class_size(plan.nonces, progress.start, plan.instances)


def _other_changes(event: Event) -> dict[str, object]:
    """Return what a worker's event changes of its class besides the counts."""
    ended, fields = event.kind.removeprefix("worker."), event.fields
    if event.kind == "worker.started":
        kernel = str(fields.get("kernel", ""))[:MOST_TEXT]
        return {"started": True, "kernel": kernel}
    if event.kind == "worker.device" and "kernel" in fields:
        return {"kernel": str(fields["kernel"])[:MOST_TEXT]}
    if ended == "failed":
        trouble = str(fields.get("reason", ""))[:MOST_TEXT]
        return {"ended": ended, "trouble": trouble}
    return {"ended": ended} if event.kind in LAST_WORDS else {}


def _is_above(nonce: object, cursor: int) -> bool:
    return isinstance(nonce, int) and nonce >= cursor


def _bounded(value: object, least: int, most: int) -> int:
    """Return a count that a worker reports, or `least` if it is out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        return least
    return value if least <= value <= most else least
