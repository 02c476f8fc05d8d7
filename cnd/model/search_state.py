"""What the workers' events mean: how far each class is, and whether the run is over.

One rule: nothing is believed that was not checked.  A nonce counts after it was
hashed again here and lies in its finder's class; a space is exhausted when every
class was tested to its end; silence proves nothing.  A worker of ours shows witnesses
for what it says it has tested (`witness.py`), and of the first nonces of the space it
is known here which are golden (`recheck.py`): whoever contradicts either is a liar.
Pure: no clock, no network.

A class that loses its worker can be handed over: the next one goes on from the
cursor, or from the last witness that the first has shown: nothing vouches for what it
said of the nonces after.  What the first had tested above is then tested again, and
counted as repeated.

The first find decides, unless the plan asks for the smallest golden nonce: then the
best find waits until every other class was tested up to it.  A worker finds the
smallest of its class, so what is left then is the smallest of all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from cnd import pow as worker
from cnd.model import witness
from cnd.model.events import LAST_WORDS, Event, amount
from cnd.model.plan import Plan, class_size
from cnd.model.witness import Lie, Missing, Proof

MOST_ANSWER = 200  # characters
MOST_TEXT = 200  # characters of what a worker says of itself that are kept


class Ending(Enum):
    """How a run ends: its name in results, and its exit status."""

    FOUND = ("found", 0)
    INCOMPLETE = ("incomplete", 4)
    TIMEOUT = ("timeout", 10)
    EXHAUSTED = ("exhausted", 11)
    STOPPED = ("stopped", 12)
    INTERRUPTED = ("stopped", 130)

    def __init__(self, outcome: str, exit_status: int) -> None:
        self.outcome = outcome
        self.exit_status = exit_status


@dataclass(frozen=True)
class Outcome:
    """How the run ended and why; the last four only where a nonce was found."""

    ending: Ending
    reason: str  # completes "ended: ..."
    nonce: int | None = None
    digest: str | None = None  # 64 hex digits
    index: int | None = None
    host: str | None = None
    # Of somebody's own worker: what its claim says, and whether it was confirmed.
    answer: str | None = None
    verified: bool | None = None


@dataclass(frozen=True)
class ClassProgress:
    """How far one residue class is; all its nonces below `cursor` were tested."""

    cursor: int
    host: str = ""  # the instance that searches it now
    tested: int = 0  # by the worker that searches it now
    before: int = 0  # tested by the workers before it
    repeated: int = 0  # of all these, tested twice because of a hand-over
    heard: int = 0  # lines that the worker that searches it now has said
    start: int = 0  # where the worker that searches it now began
    rate: float = 0.0  # nonces/s of late
    kernel: str = ""
    started: bool = False
    counted: bool = False  # whether a worker of it has said how much it tested
    ended: str = ""  # "found", "exhausted", "timeout", "stopped" or "failed"
    trouble: str = ""  # why it failed
    distrusted: bool = False  # nothing that its worker says counts any more
    proof: Proof | None = None  # of the worker that searches it now
    shown: Proof | None = None  # of the workers before it


class SearchState:
    """N classes on the way to one answer; feed it every event with `see`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.outcome: Outcome | None = None
        self.best: Outcome | None = None  # the find that is waiting, or has won
        self.checked = 0  # the golden nonces below are known
        self.awaits_check = False  # soon: what is claimed below them decides nothing
        self._golden: dict[int, list[int]] = {}  # by their class, ascending
        proof = None if plan.witness_bits is None else Proof(plan.witness_bits)
        self.standings: dict[int, ClassProgress] = {
            i: ClassProgress(cursor=i, start=i, proof=proof, shown=proof)
            for i in range(plan.instances)
        }

    @property
    def begun(self) -> bool:
        """Whether every class has been begun, or was given up before."""
        return all(s.started or s.ended for s in list(self.standings.values()))

    @property
    def tested(self) -> int:
        """How many hashes were computed, those done twice counted twice.

        Somebody's own worker need not say: see `counted`.
        """
        return sum(s.before + s.tested for s in self.standings.values())

    @property
    def counted(self) -> bool:
        """Whether `tested` is known: every worker has said how much it tested."""
        return all(self._is_counted(s) for s in self.standings.values())

    @property
    def repeated(self) -> int:
        return sum(s.repeated for s in self.standings.values())

    @property
    def rate(self) -> float:
        """Nonces/s of the workers that search right now."""
        return sum(s.rate for s in self.standings.values() if not s.ended)

    @property
    def hash_rate(self) -> float:
        """Nonces/s of all workers together, by their last word on it."""
        return sum(s.rate for s in self.standings.values())

    @property
    def searching(self) -> list[int]:
        """The classes whose worker was started and has not ended."""
        return [i for i, s in self.standings.items() if s.started and not s.ended]

    @property
    def failed(self) -> list[int]:
        """The classes that lost their worker and could still change the answer."""
        return [
            i
            for i, s in self.standings.items()
            if s.ended == "failed" and not self._is_past(s)
        ]

    @property
    def smallest(self) -> bool | None:
        """Whether no golden nonce is smaller; None where that was not asked for."""
        if not self.plan.smallest or self.best is None:
            return None
        return all(self._is_past(s) for s in self.standings.values())

    @property
    def kernels(self) -> list[str]:
        return sorted({s.kernel for s in self.standings.values() if s.kernel})

    @property
    def coverage(self) -> list[dict[str, object]]:
        """How far each class was tested, as results tell it."""
        return [
            {
                "index": i,
                "cursor": s.cursor,
                "tested": s.before + s.tested if self._is_counted(s) else None,
                "repeated": s.repeated,
                "ended": s.ended,
            }
            for i, s in self.standings.items()
        ]

    @property
    def unproved(self) -> str:
        """Why no worker has to prove what it says, or "" if each has to."""
        if self.plan.script:
            return "a worker of your own shows no witnesses"
        if self.plan.witness_bits is None:
            return "this search has no witnesses"
        return ""

    @property
    def evidence(self) -> dict[str, object] | None:
        """How sure `tested` is, as results tell it; None: see `unproved`."""
        if self.plan.witness_bits is None:
            return None
        proofs = {i: _together(s) for i, s in self.standings.items()}
        bits = max(proof.level for proof in proofs.values())
        doubt = (1 - witness.CONFIDENCE) / len(proofs)  # of each class, that of all
        return {
            "bits": self.plan.witness_bits,
            "witnesses": sum(p.of(self.plan.witness_bits) for p in proofs.values()),
            "expected": round(self.tested * 2.0**-self.plan.witness_bits, 1),
            "tested_at_least": witness.at_least(
                sum(proof.of(bits) for proof in proofs.values()), 2.0**-bits
            ),
            "least_share": min(
                self._share(i, proof, doubt) for i, proof in proofs.items()
            ),
            "confidence": witness.CONFIDENCE,
            "checked_below": self.checked,
        }

    def _share(self, index: int, proof: Proof, doubt: float) -> float:
        """Return the share of a class that was tested at least."""
        size = class_size(self.plan.nonces, index, self.plan.instances)
        here = class_size(self.checked, index, self.plan.instances)
        proved = witness.at_least(proof.count, 2.0**-proof.level, doubt)
        return round(min(1.0, max(proved, here) / size), 4)

    def see(self, event: Event) -> Event | None:
        """Take in one event; return the objection to a false claim, if it is one.

        `index` of a worker's event is the class that it searches.  Call `settle`
        when no failed class can be handed over any more.
        """
        if event.kind == "space.checked":
            objection = self._know(event)
        elif event.index is None or event.index not in self.standings:
            return None
        else:
            objection = self._take(event.index, event)
        wanted = not self.plan.smallest or (self.smallest and not self.awaits_check)
        if self.best and wanted:
            self.outcome = self.best
        return objection

    def _take(self, index: int, event: Event) -> Event | None:
        kind, standing = event.kind, self.standings[index]
        if kind in ("instance.launched", "class.handed_over"):
            self._give(index, event.host or "", again=kind == "class.handed_over")
            return None
        if kind == "worker.found" and (objection := self._judge(event)):
            return objection
        if standing.host and event.host != standing.host:
            return None  # of a host that has lost the class
        if standing.distrusted:
            return None
        if kind.startswith("worker.") and kind != "worker.refuted":
            return self._update(index, event)
        if kind == "host.failed":
            self._fail(index, str(event.fields.get("reason", "")))
        elif kind == "host.returned" and standing.ended == "failed":
            self.standings[index] = replace(standing, ended="", trouble="")
        elif kind == "host.late":
            self.standings[index] = replace(standing, ended="timeout")
        elif kind == "host.done" and not standing.ended:
            self._fail(index, "ended without a word")
        return None

    def _give(self, index: int, host: str, *, again: bool) -> None:
        """Give a class to `host`: a new one, or one to go on with from its cursor."""
        standing = self.standings[index]
        if not again:
            self.standings[index] = replace(standing, host=host)
            return
        start = self.resumption(index)
        below = (start - standing.start) // self.plan.instances
        self.standings[index] = ClassProgress(
            cursor=start,
            start=start,
            host=host,
            before=standing.before + standing.tested,
            repeated=standing.repeated + max(0, standing.tested - below),
            kernel=standing.kernel,
            counted=standing.counted,
            proof=standing.proof and Proof(standing.proof.bits),
            shown=standing.proof and _together(standing),
        )

    def resumption(self, index: int) -> int:
        """Return the nonce from which another worker is to go on with a class."""
        standing, step = self.standings[index], self.plan.instances
        if standing.proof is None:
            return standing.cursor
        known = index + step * class_size(self.checked, index, step)
        last = standing.proof.last  # a nonce of the class, or -1: none was shown
        proved = last + step if last >= 0 else standing.start
        sure = max(standing.start, proved, known)
        return min(standing.cursor, sure)

    def _know(self, event: Event) -> Event | None:
        """Take note of the golden nonces among the first of the space.

        Usually that is known before a worker speaks.
        """
        below, golden = event.fields.get("below"), event.fields.get("golden")
        if not isinstance(below, int) or not isinstance(golden, list):
            return None
        self.checked, self._golden = below, {}
        for nonce in golden:
            self._golden.setdefault(nonce % self.plan.instances, []).append(nonce)
        found = None
        for index, standing in self.standings.items():
            hidden = self._golden_in(index, standing.start, standing.cursor)
            if hidden is not None and standing.ended != "found":
                told = Event("worker.noise", index, standing.host or None)
                found = self._distrust(_refuted(told, _hidden(hidden)))
        return found

    def settle(self) -> None:
        """Decide, if every class has come to an end."""
        standings = self.standings
        if self.outcome or not all(
            s.ended or self._is_past(s) for s in standings.values()
        ):
            return
        if not (missing := self._missing()):
            what = "what is looked for" if self.plan.script else "golden"
            self.decide(Ending.EXHAUSTED, f"every nonce was tested, none is {what}")
        elif all(standings[i].ended == "timeout" for i in missing):
            self.decide(Ending.TIMEOUT, f"{self.plan.time_limit:g} s are over")
        else:
            self.give_up()

    def give_up(self) -> None:
        """End the run although some classes were lost on the way."""
        missing = self._missing()
        self.decide(Ending.INCOMPLETE, _named(missing, self.standings))

    def decide(self, ending: Ending, reason: str) -> None:
        """End the run for a reason from outside; an earlier decision stands.

        A find that waits for the other classes is the answer then, as it is.
        """
        if self.outcome is None:
            self.outcome = self.best or Outcome(ending, reason)

    def stop(self, event: Event) -> None:
        """End the run because somebody asked for it (`run.stop_requested`)."""
        by, text = event.fields.get("by"), event.fields.get("text", "")
        ending = Ending.INTERRUPTED if by == "signal" else Ending.STOPPED
        self.decide(ending, f"stop asked for by {by}: {text}")

    def _update(self, index: int, event: Event) -> Event | None:
        """Take over what a worker says of itself, where it makes sense.

        Return the objection if it cannot be true.
        """
        try:
            self.standings[index] = self._updated(index, event)
        except Missing as gap:  # that may be nobody's lie
            told = _refuted(event, str(gap))
            return replace(self._distrust(told), kind="worker.failed")
        except Lie as objection:
            return self._distrust(_refuted(event, str(objection)))
        return None

    def _updated(self, index: int, event: Event) -> ClassProgress:
        """Return how far a class is by its worker's word; `Lie` if that is none."""
        standing, fields = self.standings[index], event.fields
        changes: dict[str, object] = {"heard": standing.heard + 1}
        start, left, step = standing.start, self._left(standing), self.plan.instances
        if event.kind == "worker.exhausted":
            self._require_end(standing, event)
        cursor = _within(fields.get("cursor"), standing.cursor, start + left * step)
        if event.kind == "worker.found" and "left_in" not in fields:
            cursor = max(
                cursor, int(fields["nonce"])
            )  # it is the smallest of its class
        tested = _within(fields.get("tested"), standing.tested, left)
        below = -((start - cursor) // step)  # nonces of the class
        self._require_no_golden(index, standing, cursor, event)
        changes["cursor"] = start + below * step
        changes["tested"] = max(tested, below)
        if standing.proof is not None:
            proof = self._proved(standing, event, start + below * step)
            above = self._above(standing, proof, event)
            p = witness.chance(proof.level, self.plan.difficulty)
            if witness.is_lie(below, proof.count, p):
                told = f"{below} nonces are said to be tested, {proof.count} witnesses"
                raise Lie(f"{told} shown: {below * p:.0f} are to be expected")
            sure = max(below, standing.tested)
            counted = witness.credible(sure, max(tested, sure), above.count, p)
            # Who has failed is followed by another, from what is proved below.
            whole = proof if event.kind == "worker.failed" else above
            changes |= {"proof": whole, "tested": counted}
        if (rate := amount(fields.get("rate"))) is not None:
            changes["rate"] = rate
        if isinstance(fields.get("tested"), int):
            changes["counted"] = True
        return replace(standing, **changes, **_said(event))  # type: ignore[arg-type]

    def _proved(self, standing: ClassProgress, event: Event, cursor: int) -> Proof:
        """Return the proof of a class with the witnesses below `cursor`."""
        assert standing.proof is not None
        shown = event.fields.get("witnesses", [])
        if not isinstance(shown, list) or len(shown) > witness.MOST_AT_ONCE:
            raise Lie("its witnesses are no short list")
        standing.proof.require_whole(event.fields.get("shown"))
        ends = event.kind in LAST_WORDS
        if ends:
            shown = [each for each in shown if not _is_above(each, cursor)]
        members = self._members(standing, cursor)
        proof = standing.proof.extended(self.plan.block, members, shown)
        if (bits := event.fields.get("thinned_to")) is not None:
            proof = proof.thinned(bits, 4 * self.plan.difficulty - 1)
        return proof

    def _above(self, standing: ClassProgress, proof: Proof, event: Event) -> Proof:
        """Return a proof with what a last word shows of the nonces above the cursor."""
        if event.kind not in LAST_WORDS:
            return proof
        members = self._members(standing, self.plan.nonces)
        return proof.extended(
            self.plan.block, members, event.fields.get("witnesses", [])
        )

    def _members(self, standing: ClassProgress, end: int) -> range:
        end = min(end, self.plan.nonces)
        return range(standing.start, end, self.plan.instances)

    def _require_no_golden(
        self, index: int, standing: ClassProgress, cursor: int, event: Event
    ) -> None:
        """Raise `Lie` if a golden nonce lies where a worker says that there is none."""
        if event.kind == "worker.found":
            cursor = int(event.fields["nonce"])
        hidden = self._golden_in(index, standing.start, cursor)
        if hidden is not None:
            raise Lie(_hidden(hidden))

    def _golden_in(self, index: int, start: int, end: int) -> int | None:
        """Return the first nonce of a class that is known to be golden there."""
        golden = self._golden.get(index, [])
        first = bisect_left(golden, start)
        return golden[first] if golden[first:] and golden[first] < end else None

    def _judge(self, event: Event) -> Event | None:
        """Believe a find after a check, or return the objection to it."""
        if objection := self.refuted(event):
            return self._distrust(objection)
        index, nonce = event.index or 0, int(event.fields["nonce"])
        lower = self.best is None or nonce < (self.best.nonce or 0)
        if self.best is None or (self.plan.smallest and lower):
            self.best = _find(self.plan, index, nonce, event)
        # A proved nonce is the answer even where the run was ending without one.
        if self.outcome:
            self.outcome = self.best
        return None

    def _is_counted(self, standing: ClassProgress) -> bool:
        """Whether it is known how much of a class was tested; CND's own worker says."""
        return standing.counted or not (self.plan.script and standing.started)

    def _is_past(self, standing: ClassProgress) -> bool:
        """Whether nothing that is left of a class could replace the best find."""
        best = self.best
        return best is not None and standing.cursor >= (best.nonce or 0)

    def _fail(self, index: int, trouble: str) -> None:
        if not self.standings[index].ended:
            self.standings[index] = replace(
                self.standings[index], ended="failed", trouble=trouble, rate=0.0
            )

    def refuted(self, event: Event) -> Event | None:
        """Return the objection to the claim of a `worker.found`; None if it holds."""
        index, nonce = event.index or 0, event.fields.get("nonce")
        objection = refutation(self.plan, index, nonce)
        if self.plan.script and not objection:
            objection = _own_objection(event)
        return _refuted(event, objection) if objection else None

    def _require_end(self, standing: ClassProgress, event: Event) -> None:
        """Raise `Lie` if a class is not exhausted although its worker says so."""
        left = self._left(standing)
        cursor, tested = event.fields.get("cursor"), event.fields.get("tested")
        at_end = isinstance(cursor, int) and cursor >= self.plan.nonces
        if not at_end or tested != left or isinstance(tested, bool):
            told = repr(tested)[:MOST_TEXT]
            raise Lie(f"exhausted, but {told} of {left} nonces were tested")

    def _distrust(self, objection: Event) -> Event:
        """Take nothing from a liar: its classes begin again from where it got them.

        What others search is theirs, also where it was the liar's before.
        """
        for index, standing in self.standings.items():
            unknown = index == objection.index and not standing.host
            if unknown or (standing.host and standing.host == objection.host):
                self.standings[index] = replace(
                    standing,
                    cursor=standing.start,
                    tested=0,
                    proof=standing.proof and Proof(standing.proof.bits),
                    ended="failed",
                    distrusted=True,
                    trouble=f"false claim: {objection.fields['reason']}",
                    rate=0.0,
                )
        return objection

    def _left(self, standing: ClassProgress) -> int:
        """Return how many nonces a class had when its worker began."""
        return class_size(self.plan.nonces, standing.start, self.plan.instances)

    def _missing(self) -> list[int]:
        """Return the classes that were not tested to their end, each nonce once."""
        plan = self.plan
        return [
            i
            for i, s in self.standings.items()
            if s.ended != "exhausted"
            or s.cursor < plan.nonces
            or s.before + s.tested - s.repeated
            != class_size(plan.nonces, i, plan.instances)
        ]


def refutation(plan: Plan, index: int, nonce: object) -> str:
    """Return why `nonce` is no answer of worker `index`, or "" if it is one."""
    if not isinstance(nonce, int) or isinstance(nonce, bool):
        return f"{nonce!r} is no nonce"
    if not 0 <= nonce < plan.nonces or nonce % plan.instances != index:
        return f"{nonce} lies outside its class"
    if plan.script:
        return ""  # what it says is its own; `_judge` looks at the verdict
    if not worker.is_golden(worker.digest(plan.block, nonce), plan.difficulty):
        return f"{nonce} is not golden"
    return ""


def _refuted(event: Event, reason: str) -> Event:
    fields = {"nonce": event.fields.get("nonce"), "reason": reason}
    return Event("worker.refuted", event.index, event.host, fields)


def _is_above(nonce: object, cursor: int) -> bool:
    return isinstance(nonce, int) and nonce >= cursor


def _hidden(nonce: int) -> str:
    return f"{nonce} is golden, and was said to be tested"


def _together(standing: ClassProgress) -> Proof:
    """Return what was shown for a class by all that have searched it."""
    assert standing.proof is not None
    return standing.shown.plus(standing.proof) if standing.shown else standing.proof


def _said(event: Event) -> dict[str, object]:
    """Return what a worker's event changes of its class besides the counts."""
    ended, fields = event.kind.removeprefix("worker."), event.fields
    if event.kind == "worker.started":
        kernel = str(fields.get("kernel", ""))[:MOST_TEXT]
        return {"started": True, "kernel": kernel}
    if ended == "failed":
        trouble = str(fields.get("reason", ""))[:MOST_TEXT]
        return {"ended": ended, "trouble": trouble}
    return {"ended": ended} if event.kind in LAST_WORDS else {}


def _within(value: object, least: int, most: int) -> int:
    """Return a count that a worker tells, or `least` where it makes no sense."""
    if isinstance(value, bool) or not isinstance(value, int):
        return least
    return value if least <= value <= most else least


def _own_objection(event: Event) -> str:
    """Return why a claim of somebody's own worker is refused, or "" if it is not."""
    if event.fields.get("verdict") == "false":
        return str(event.fields.get("verdict_reason", "its own check refutes it"))
    return ""


def _find(plan: Plan, index: int, nonce: int, event: Event) -> Outcome:
    """Return a claim that was not refuted as the answer."""
    reason = f"golden nonce {nonce}"
    if not plan.script:
        digest = worker.digest(plan.block, nonce)
        return Outcome(Ending.FOUND, reason, nonce, digest, index, event.host)
    verified = event.fields.get("verdict") == "true"
    why = event.fields.get("verdict_reason", "nobody has checked it")
    answer = event.fields.get("answer")
    return Outcome(
        Ending.FOUND,
        f"number {nonce}; {'verified' if verified else 'UNVERIFIED'}: {why}",
        nonce,
        index=index,
        host=event.host,
        answer=None if answer is None else str(answer)[:MOST_ANSWER],
        verified=verified,
    )


def _named(missing: Sequence[int], standings: dict[int, ClassProgress]) -> str:
    """Name the classes that were lost, the first few of them with the reason."""
    lost = [i for i in missing if standings[i].ended == "failed"] or missing
    shown = [
        f"class {i}: {standings[i].trouble or 'stopped short of its end'}"
        for i in lost[:3]
    ]
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return "; ".join(shown) + more
