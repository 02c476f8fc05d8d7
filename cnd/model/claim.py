"""A worker's claim to have found a nonce: checked, and made the answer of the run.

One rule: a claim of `pow.py` is believed only after its nonce was hashed again here and
lies in its finder's class.  A claim of a user's own worker must lie in the class, and
is refused if the worker's own check refutes it.
"""

from __future__ import annotations

from cnd import pow as worker
from cnd.model.events import Event
from cnd.model.outcome import Ending, Outcome
from cnd.model.plan import Plan

MOST_ANSWER = 200  # characters


def hashed(plan: Plan, nonce: int) -> tuple[str, bool]:
    """Return the hash of a nonce in hex digits, and whether it is golden."""
    digest = worker.digest(plan.block, nonce)
    return digest, worker.is_golden(digest, plan.difficulty)


def refutation(plan: Plan, index: int, nonce: object) -> str:
    """Return why `nonce` is no answer of class number `index`, or "" if it is one."""
    if not isinstance(nonce, int) or isinstance(nonce, bool):
        return f"{nonce!r} is no nonce"
    pieces = plan.pieces
    if index >= len(pieces) or nonce not in pieces[index].within(plan.nonces):
        return f"{nonce} lies outside its class"
    if plan.script:
        return ""  # such a worker defines its own answers; see `_script_refutation`
    if not worker.is_golden(worker.digest(plan.block, nonce), plan.difficulty):
        return f"{nonce} is not golden"
    return ""


def objection_to(plan: Plan, event: Event) -> Event | None:
    """Return the objection to the claim of a `worker.found`; None if it holds."""
    reason = refutation(plan, event.index or 0, event.fields.get("nonce"))
    if plan.script and not reason:
        reason = _script_refutation(event)
    return objection(event, reason) if reason else None


def objection(event: Event, reason: str) -> Event:
    """Return the event that refutes what `event` claims."""
    fields = {"nonce": event.fields.get("nonce"), "reason": reason}
    return Event("worker.refuted", event.index, event.host, fields)


def _script_refutation(event: Event) -> str:
    """Return why a claim of the user's own worker is refused, or "" if it is not."""
    if event.fields.get("verdict") == "false":
        return str(event.fields.get("verdict_reason", "its own check refutes it"))
    return ""


def found_before(plan: Plan) -> Outcome | None:
    """Return the find of an earlier run that waits for smaller ones, if any."""
    if plan.known is None:
        return None
    digest = worker.digest(plan.block, plan.known)
    return Outcome(Ending.FOUND, f"golden nonce {plan.known}", plan.known, digest)


def answer(plan: Plan, index: int, nonce: int, event: Event) -> Outcome:
    """Return a claim that was not refuted as the answer."""
    reason = f"golden nonce {nonce}"
    if not plan.script:
        digest = worker.digest(plan.block, nonce)
        return Outcome(Ending.FOUND, reason, nonce, digest, index, event.host)
    verified = event.fields.get("verdict") == "true"
    why = event.fields.get("verdict_reason", "it was not checked")
    text = event.fields.get("answer")
    return Outcome(
        Ending.FOUND,
        f"number {nonce}; {'verified' if verified else 'UNVERIFIED'}: {why}",
        nonce,
        index=index,
        host=event.host,
        answer=None if text is None else str(text)[:MOST_ANSWER],
        verified=verified,
    )
