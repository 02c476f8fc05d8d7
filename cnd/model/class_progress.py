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
from cnd.model.pieces import Piece, members
from cnd.model.plan import Plan
from cnd.model.witness import FalseClaim, LostWitnesses, Proof

MOST_TEXT = 200  # characters of a worker's own text that are kept
WAITING = "waiting"  # for an instance that has nothing left to search
# After these a worker has reported all that it has tested.
REPORTED = frozenset({"found", "exhausted", "timeout", "stopped"})


@dataclass(frozen=True)
class ClassProgress:
    """How far one residue class is; all its nonces below `cursor` were tested."""

    cursor: int
    host: str = ""  # the instance that searches it now
    tested: int = 0  # by its present worker
    before: int = 0  # by the workers before it
    repeated: int = 0  # of all these, tested twice because of a hand-over
    # What the workers before it may have tested after their last reports, at most; and
    # the number of nonces of the class, from its first on, that this reaches to.
    unreported: int = 0
    reach: int = 0
    lines: int = 0  # that its present worker has sent
    start: int = 0  # where its present worker began
    step: int = 1  # from one nonce of the class to the next
    rate: float = 0.0  # nonces/s, as last reported
    seconds: float = 0.0  # of search by its present worker, as last reported
    kernel: str = ""
    started: bool = False
    counted: bool = False  # whether a worker of it has reported how much it tested
    # "found", "exhausted", "timeout", "stopped" or "failed"; WAITING: not begun.
    ended: str = ""
    trouble: str = ""  # why it failed
    distrusted: bool = False  # its present worker made a false claim: nothing counts
    proof: Proof | None = None  # of its present worker
    shown: Proof | None = None  # of the workers before it

    @property
    def whole_proof(self) -> Proof:
        """The proof of all workers that have searched the class."""
        assert self.proof is not None
        return self.shown.plus(self.proof) if self.shown else self.proof

    def repeated_of(self, piece: Piece) -> int:
        """Return how much was tested twice, in this run or in this and before."""
        return self.repeated + min(
            piece.again, self.before + self.tested - self.repeated
        )

    def repeated_at_most(self, piece: Piece) -> int:
        """Return the same with what may have been tested before, for all that is known.

        As far as its workers have come by now.
        """
        fresh = self.before + self.tested - self.repeated
        earlier = min(piece.perhaps, max(0, fresh - piece.again))
        mine = min(self.unreported, self.tested)
        return min(self.before + self.tested, self.repeated_of(piece) + earlier + mine)

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
    fields, start, step = event.fields, progress.start, progress.step
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
    if (seconds := amount(fields.get("seconds"))) is not None:
        changes["seconds"] = min(seconds, plan.time_limit)
    if isinstance(fields.get("tested"), int):
        changes["counted"] = True
    return replace(progress, **changes, **_other_changes(event))  # type: ignore[arg-type]


def handed_over(
    progress: ClassProgress, host: str, start: int, unreported: int = 0
) -> ClassProgress:
    """Return how far a class is when `host` goes on with it from `start`.

    Of the last progress before it a journal may lack the record: all below `start` was
    tested.

    Args:
        unreported: nonces that the worker before may have tested after its last report.
    """
    fresh = progress.before + progress.tested - progress.repeated
    below = max(0, (start - progress.start) // progress.step)
    tested = max(progress.tested, below)
    return ClassProgress(
        cursor=start,
        start=start,
        step=progress.step,
        host=host,
        before=progress.before + tested,
        repeated=progress.repeated + tested - below,
        unreported=progress.unreported + unreported,
        reach=max(progress.reach, fresh + unreported) if unreported else progress.reach,
        kernel=progress.kernel,
        counted=progress.counted,
        proof=progress.proof and Proof(progress.proof.bits),
        shown=progress.proof and progress.whole_proof,
    )


def resumption(progress: ClassProgress, checked: int) -> int:
    """Return the nonce from which another worker is to go on with a class.

    Args:
        checked: all golden nonces below it are known.
    """
    start, step = progress.start, progress.step
    if progress.proof is None:
        return progress.cursor
    known = start + step * members(start, step, checked)
    last = progress.proof.last  # a nonce of the class, or -1: none was shown
    proved = last + step if last >= 0 else start
    return min(progress.cursor, max(start, proved, known))


def continuation(progress: ClassProgress, checked: int) -> int:
    """Return the nonce from which a later run is to go on with a class.

    The last report of a worker is as certain in the middle of a class as at its end;
    without one, nothing proves what came after the last witness.
    """
    if progress.ended in REPORTED and not progress.distrusted:
        return progress.cursor
    return resumption(progress, checked)


def left(
    plan: Plan,
    progress: ClassProgress,
    piece: Piece,
    checked: int,
    unreported: float = 0,
) -> dict[str, int]:
    """Return where a later run is to go on with a class, as a part of its coverage.

    And how many of the first nonces from there on were tested all the same, and how
    many may have been.

    Args:
        unreported: nonces that its worker may have tested after its last report.
    """
    start = continuation(progress, checked)
    below = members(piece.start, piece.modulus, start)
    tested = progress.before + progress.tested - progress.repeated
    size = members(start, piece.modulus, plan.nonces)
    again = min(size, max(0, max(tested, piece.again) - below))
    reach = max(tested + unreported, progress.reach, piece.again + piece.perhaps)
    most = int(max(again, min(size, reach - below)))
    return {"next": start, "again": again, "again_at_most": most}


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
    rotated = "rotated" in event.fields  # it sums up all that the worker has shown
    try:
        progress.proof.require_whole(event.fields.get("shown"))
    except LostWitnesses:
        if not rotated:
            raise
    else:
        if rotated:
            return progress.proof  # all of it has come
    if event.kind in LAST_WORDS:
        shown = [each for each in shown if not _is_above(each, cursor)]
    members = _members(plan, progress, cursor)
    most = _most_bits(plan)
    proof = progress.proof.extended(plan.block, members, shown, most)
    if (bits := event.fields.get("thinned_to")) is not None:
        proof = proof.thinned(bits, most)
    return proof.summed_up(event.fields["shown"]) if rotated else proof


def _with_those_above(
    plan: Plan, progress: ClassProgress, proof: Proof, event: Event
) -> Proof:
    """Return a proof with the witnesses above the cursor that a last event shows."""
    if event.kind not in LAST_WORDS:
        return proof
    members = _members(plan, progress, plan.nonces)
    shown = event.fields.get("witnesses", [])
    return proof.extended(plan.block, members, shown, _most_bits(plan))


def _most_bits(plan: Plan) -> int:
    """Return the most zero bits of a witness: a golden nonce has more."""
    return 4 * plan.difficulty - 1


def _members(plan: Plan, progress: ClassProgress, end: int) -> range:
    return range(progress.start, min(end, plan.nonces), progress.step)


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
    return members(progress.start, progress.step, plan.nonces)


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
