"""From what a run has tested to the plan of a run that goes on where it ended.

One rule: pure; block, difficulty and space are those of the earlier run, and what was
found or tested to the end is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cnd.errors import UsageError
from cnd.model import pieces
from cnd.model.claim import hashed
from cnd.model.pieces import Piece
from cnd.model.plan import Plan
from cnd.model.run_name import is_run

FOUND = "found"  # an outcome
FRESH = "`fab start` begins a new search"


@dataclass(frozen=True)
class Past:
    """A run as far as a later one needs to know it."""

    run: str
    plan: Plan  # as it was asked for
    pieces: tuple[Piece, ...]  # each class from the nonce below which it is tested
    tested: int  # nonces, by this run and those that it resumes, each counted once
    outcome: str = ""  # as in results; "": it broke off
    nonce: int | None = None  # that it has found
    smallest: bool | None = None  # whether that is known to be the smallest one

    @property
    def left(self) -> int:
        """How many nonces are left that it was to test."""
        return sum(piece.size(self.plan.end) for piece in self.pieces)


def past(
    run: str,
    plan: Plan,
    rows: Iterable[Mapping[str, object]],
    result: Mapping[str, object],
) -> Past:
    """Return a run whose coverage is `rows`.

    Args:
        plan: with the number of instances that the run had.
        result: what is known of its end: outcome, nonce, smallest, tested_in_all.

    Raises:
        ValueError: the rows make no sense.
    """
    rows = list(rows)
    left = tuple(pieces.unfinished(rows, plan.instances))
    tested, nonce = result.get("tested_in_all"), result.get("nonce")
    if not isinstance(tested, int):
        tested = _tested(plan, rows, left)
    _require_sense(plan, left, tested)
    smallest = result.get("smallest")
    return Past(
        run,
        plan,
        left,
        tested,
        str(result.get("outcome") or ""),
        nonce if isinstance(nonce, int) else None,
        smallest if isinstance(smallest, bool) else None,
    )


def _require_sense(plan: Plan, left: Sequence[Piece], tested: int) -> None:
    """Refuse what no run leaves: it may be the file of another program.

    Raises:
        ValueError: a nonce would be tested twice, or a count is impossible.
    """
    rest = pieces.remaining(left, plan.nonces)
    if not left or not pieces.are_disjoint(rest):
        raise ValueError("its coverage has a nonce in two classes, or no class")
    if any(piece.again + piece.perhaps > piece.size(plan.nonces) for piece in left):
        raise ValueError("its coverage has more nonces than a class")
    if not 0 <= tested <= plan.nonces:
        raise ValueError(f"it cannot have tested {tested} of {plan.nonces} nonces")
    if not all(map(is_run, plan.chain)):
        raise ValueError("it says to resume what is no run")


def _tested(
    plan: Plan, rows: Iterable[Mapping[str, object]], left: Iterable[Piece]
) -> int:
    """Return how many nonces a run has tested, each counted once, by its coverage.

    That of a worker of the user's own counts up to its cursor.
    """
    total = plan.tested_before
    for row, piece in zip(rows, left, strict=True):
        tested, repeated = row.get("tested"), row.get("repeated")
        begun = row.get("start", piece.residue)
        if isinstance(tested, int) and isinstance(repeated, int):
            total += tested - repeated
        elif isinstance(begun, int):
            total += pieces.members(begun, piece.modulus, piece.start)
    return total


def require_open(past: Past, *, smallest: bool) -> None:
    """Refuse a search that needs no further one.

    Args:
        smallest: whether the smallest golden nonce is wanted.

    Raises:
        UsageError: there is nothing to go on with.
    """
    run, nonce = past.run, past.nonce
    if past.outcome == "exhausted":
        message = f"run {run} is finished: every nonce was tested, none is golden"
        raise UsageError(message, hint="a larger --nonces is a new search: fab start")
    if nonce is not None and past.smallest:
        message = f"run {run} is finished: {nonce} is the smallest golden nonce"
        raise UsageError(message, hint=FRESH)
    if nonce is not None and (past.plan.script or not smallest):
        message = f"run {run} is finished: it found {nonce}"
        hint = "--smallest goes on with the smaller ones"
        raise UsageError(message, hint=FRESH if past.plan.script else hint)
    if nonce is not None and not hashed(past.plan, nonce)[1]:
        message = f"run {run} cannot be resumed: {nonce} in its result is not golden"
        raise UsageError(message, hint=FRESH)
    if not past.left:
        message = f"run {run} is finished: no nonce is left to be tested"
        raise UsageError(message, hint=FRESH)


def continued(past: Past, wanted: Plan) -> Plan:
    """Return the plan of a run over exactly what an earlier one has not tested.

    `forecast.decide` deals it to the instances.

    Args:
        wanted: the plan of the earlier run with changed options.

    Raises:
        UsageError: every nonce below its find was tested.
    """
    plan = wanted
    if past.nonce is not None:
        plan = replace(plan, known=past.nonce)
    if not (left := pieces.remaining(past.pieces, plan.end)):
        message = f"run {past.run} is finished: no nonce below {plan.end} is left"
        raise UsageError(message, hint=FRESH)
    return replace(
        plan,
        work=tuple(left),
        chain=(*past.plan.chain, past.run),
        tested_before=past.tested,
    )


def dealt(plan: Plan) -> Plan:
    """Return a plan whose pieces are dealt to its instances: none stays without one."""
    if not plan.work:
        return plan
    work = pieces.dealt(plan.pieces, plan.end, plan.instances)
    instances = min(plan.instances, len(work))
    least = min(plan.at_least, instances)
    return replace(plan, work=work, instances=instances, at_least=least)
