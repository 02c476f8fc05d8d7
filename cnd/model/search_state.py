"""What the workers' events mean: how far each class is, and whether the run is over.

One rule: nothing is believed that was not checked.  A nonce counts after it was
hashed again here and lies in its finder's class (`claim.py`); a space is exhausted when
every class was tested to its end; silence proves nothing.  A worker of CND proves what
it has tested by witnesses, and must report the golden nonces that are known here
(`class_progress.py`): an event that contradicts either is a false claim.
Pure: no clock, no network.

A class that loses its worker can be handed over: the next worker goes on from the
cursor, or from the last witness that the first one has shown, since nothing proves what
it reported of the nonces after.  What the first one had tested above is then tested
again, and counted as repeated.

A class is known by its number in `Plan.pieces`.  A run that resumes another one may
have more pieces than instances: the further ones wait, and are handed over, too.

The first find decides, unless the plan asks for the smallest golden nonce: then the
best find waits until every other class was tested up to it.  A worker finds the
smallest of its class, so what is left then is the smallest of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from cnd.model import class_progress, witness
from cnd.model.claim import answer, found_before, objection, objection_to
from cnd.model.class_progress import WAITING, ClassProgress, concealed, first_golden
from cnd.model.events import Event
from cnd.model.outcome import Ending, Outcome
from cnd.model.pieces import members
from cnd.model.plan import Plan
from cnd.model.unreported import LastSigns
from cnd.model.witness import FalseClaim, LostWitnesses, Proof

ASSIGNMENTS = ("instance.launched", "class.handed_over")  # kinds of events


class SearchState:
    """N classes on the way to one answer; feed it every event with `see`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.outcome: Outcome | None = None
        # The find that is waiting, or has won.
        self.best: Outcome | None = found_before(plan)
        self.checked = 0  # all golden nonces below it are known
        # Whether `checked` is soon to grow: what is claimed below it decides nothing.
        self.awaits_check = False
        self._golden: dict[int, list[int]] = {}  # by their class, ascending
        self._signs = LastSigns(plan)
        proof = None if plan.witness_bits is None else Proof(plan.witness_bits)
        self.classes: dict[int, ClassProgress] = {
            number: ClassProgress(
                cursor=piece.start,
                start=piece.start,
                step=piece.modulus,
                ended="" if number < plan.instances else WAITING,
                proof=proof,
                shown=proof,
            )
            for number, piece in enumerate(plan.pieces)
        }

    @property
    def begun(self) -> bool:
        """Whether the worker of every class has begun, or has failed before."""
        return all(s.started or s.ended for s in list(self.classes.values()))

    @property
    def tested(self) -> int:
        """How many hashes were computed, those done twice counted twice.

        A user's own worker may not report it: see `counted`.
        """
        return sum(s.before + s.tested for s in self.classes.values())

    @property
    def counted(self) -> bool:
        """Whether `tested` is known: every worker has reported how much it tested."""
        return all(s.is_counted(self.plan) for s in self.classes.values())

    @property
    def repeated(self) -> int:
        """How many of these were done twice: in this run, or in this and before."""
        pairs = zip(self.plan.pieces, self.classes.values(), strict=True)
        return sum(s.repeated_of(piece) for piece, s in pairs)

    @property
    def rate(self) -> float:
        """Nonces/s of the workers that search right now."""
        return sum(s.rate for s in self.classes.values() if not s.ended)

    @property
    def hash_rate(self) -> float:
        """Nonces/s of all workers together, as each has reported last.

        Where an instance searches pieces one after the other, their mean counts.
        """
        if not self.plan.work:
            return sum(s.rate for s in self.classes.values())
        of_host: dict[str, list[float]] = {}
        for s in self.classes.values():
            of_host.setdefault(s.host, []).extend([s.rate] * (s.rate > 0))
        return sum(fmean(rates) for rates in of_host.values() if rates)

    @property
    def searching(self) -> list[int]:
        """The classes whose worker was started and has not ended."""
        return [i for i, s in self.classes.items() if s.started and not s.ended]

    @property
    def failed(self) -> list[int]:
        """The classes that lost their worker and could still change the answer."""
        return [
            i
            for i, s in self.classes.items()
            if s.ended == "failed" and not self.is_settled(s)
        ]

    @property
    def smallest(self) -> bool | None:
        """Whether no golden nonce is smaller; None where that was not asked for."""
        if not self.plan.smallest or self.best is None:
            return None
        return all(self.is_settled(s) for s in self.classes.values())

    @property
    def kernels(self) -> list[str]:
        return sorted({s.kernel for s in self.classes.values() if s.kernel})

    @property
    def coverage(self) -> list[dict[str, object]]:
        """How far each class was tested, in the form of results."""
        return [
            {
                "index": i,
                "of": s.step,
                "start": piece.start,
                "cursor": s.cursor,
                **class_progress.left(
                    self.plan,
                    s,
                    piece,
                    self.checked,
                    self._signs.at_most(i, self.classes),
                ),
                "tested": s.before + s.tested if s.is_counted(self.plan) else None,
                "repeated": s.repeated_of(piece),
                "ended": s.ended,
            }
            for (i, s), piece in zip(
                self.classes.items(), self.plan.pieces, strict=True
            )
        ]

    def see(self, event: Event) -> Event | None:
        """Take in one event; return the objection if it is a false claim.

        `index` of a worker's event is the class that it searches.  Call `settle`
        when no failed class can be handed over any more.
        """
        self._signs.note(event, self.classes)
        if event.kind == "space.checked":
            objected = self._note_checked(event)
        elif event.index is None or event.index not in self.classes:
            return None
        else:
            objected = self._take(event.index, event)
        decides = not self.plan.smallest or (self.smallest and not self.awaits_check)
        if self.best and decides:
            self.outcome = self.best
        return objected

    def _take(self, index: int, event: Event) -> Event | None:
        kind, progress = event.kind, self.classes[index]
        if kind in ASSIGNMENTS:
            self._assign(index, event)
            return None
        if kind == "worker.found" and (objected := self._check_find(event)):
            return objected
        if progress.host and event.host != progress.host:
            return None  # of a host that has lost the class
        if progress.distrusted:
            return None
        if kind.startswith("worker.") and kind != "worker.refuted":
            return self._update(index, event)
        if kind == "host.failed":
            self.classes[index] = class_progress.failed(
                progress, str(event.fields.get("reason", ""))
            )
        elif kind == "host.returned" and progress.ended == "failed":
            self.classes[index] = replace(progress, ended="", trouble="")
        elif kind == "host.late":
            self.classes[index] = replace(progress, ended="timeout")
        elif kind == "host.done" and not progress.ended:
            self.classes[index] = class_progress.failed(
                progress, "ended without a report"
            )
        return None

    def _assign(self, index: int, event: Event) -> None:
        """Give a class to a host: a new one, or one to go on with.

        An instance that replaces another one has no class from the beginning.
        """
        progress, start = self.classes[index], event.fields.get("start")
        if event.kind == "instance.launched":
            if index < self.plan.instances:
                self.classes[index] = replace(progress, host=event.host or "")
                self._signs.begin(index, event)
            return
        above = members(progress.cursor, progress.step, self.plan.nonces)
        unreported = int(min(above, self._signs.at_most(index, self.classes)))
        if not isinstance(start, int) or (start - progress.start) % progress.step:
            start = self.resumption(index)
        self.classes[index] = class_progress.handed_over(
            progress, event.host or "", max(start, progress.start), unreported
        )
        self._signs.begin(index, event)

    def resumption(self, index: int) -> int:
        """Return the nonce from which another worker is to go on with a class."""
        return class_progress.resumption(self.classes[index], self.checked)

    def _note_checked(self, event: Event) -> Event | None:
        """Take note of the golden nonces among the first of the space.

        Usually they are known before the first event of a worker comes.
        """
        below, golden = event.fields.get("below"), event.fields.get("golden")
        if not isinstance(below, int) or not isinstance(golden, list):
            return None
        self.checked, self._golden = below, {}
        for nonce in golden:
            if (owner := self.plan.owners.of(nonce)) is not None:
                self._golden.setdefault(owner, []).append(nonce)
        objected = None
        for index, progress in self.classes.items():
            passed_over = first_golden(
                self._golden.get(index, []), progress.start, progress.cursor
            )
            if passed_over is not None and progress.ended != "found":
                event = Event("worker.noise", index, progress.host or None)
                objected = self._distrust(objection(event, concealed(passed_over)))
        return objected

    def settle(self) -> None:
        """Decide, if every class has come to an end."""
        classes = self.classes
        if self.outcome or not all(
            s.ended or self.is_settled(s) for s in classes.values()
        ):
            return
        if not (missing := _unfinished(self.plan, classes)):
            what = "what is looked for" if self.plan.script else "golden"
            self.decide(Ending.EXHAUSTED, f"every nonce was tested, none is {what}")
        elif {"timeout"} <= {classes[i].ended for i in missing} <= {"timeout", WAITING}:
            self.decide(Ending.TIMEOUT, f"{self.plan.time_limit:g} s are over")
        else:
            self.give_up()

    def give_up(self) -> None:
        """End the run although some classes were lost on the way."""
        missing = _unfinished(self.plan, self.classes)
        self.decide(Ending.INCOMPLETE, _reasons(missing, self.classes))

    def decide(self, ending: Ending, reason: str) -> None:
        """End the run for a reason from outside; an earlier decision stands.

        A find that waits for the other classes is the answer then, as it is.
        """
        if self.outcome is None:
            self.outcome = self.best or Outcome(ending, reason)

    def stop(self, event: Event) -> None:
        """End the run because a stop was requested (`run.stop_requested`)."""
        by, text = event.fields.get("by"), event.fields.get("text", "")
        ending = Ending.INTERRUPTED if by == "signal" else Ending.STOPPED
        self.decide(ending, f"stop asked for by {by}: {text}")

    def _update(self, index: int, event: Event) -> Event | None:
        """Take over what a worker reports; return the objection if it is false."""
        progress, golden = self.classes[index], self._golden.get(index, [])
        try:
            self.classes[index] = class_progress.updated(
                self.plan, progress, event, golden
            )
        except LostWitnesses as loss:  # perhaps no false claim, but its proof is gone
            objected = self._distrust(objection(event, str(loss)))
            return replace(objected, kind="worker.failed")
        except FalseClaim as reason:
            return self._distrust(objection(event, str(reason)))
        return None

    def _check_find(self, event: Event) -> Event | None:
        """Keep a find that passes the checks, or return the objection to it."""
        if objected := objection_to(self.plan, event):
            return self._distrust(objected)
        index, nonce = event.index or 0, int(event.fields["nonce"])
        lower = self.best is None or nonce < (self.best.nonce or 0)
        if self.best is None or (self.plan.smallest and lower):
            self.best = answer(self.plan, index, nonce, event)
        # A proved nonce is the answer even where the run was ending without one.
        if self.outcome:
            self.outcome = self.best
        return None

    def is_settled(self, progress: ClassProgress) -> bool:
        """Whether nothing that is left of a class could replace the best find."""
        best = self.best
        return best is not None and progress.cursor >= (best.nonce or 0)

    def _distrust(self, objected: Event) -> Event:
        """Discard the work of a host that made a false claim, in every class it has.

        What other hosts search is kept, also where it was this host's before.
        """
        for index, progress in self.classes.items():
            unassigned = index == objected.index and not progress.host
            if unassigned or (progress.host and progress.host == objected.host):
                reason = str(objected.fields["reason"])
                self.classes[index] = class_progress.distrusted(progress, reason)
        return objected


def repeated_at_most(search: SearchState) -> int:
    """Return `repeated` with what may have been tested by workers that were lost."""
    pairs = zip(search.plan.pieces, search.classes.values(), strict=True)
    return sum(s.repeated_at_most(piece) for piece, s in pairs)


def waiting(search: SearchState) -> list[int]:
    """Return the pieces that can be begun, and could still change the answer."""
    if len(search.classes) == search.plan.instances:
        return []  # each has begun with an instance
    classes = search.classes.items()
    if any(s.ended == "timeout" for _, s in classes):
        return []
    return [i for i, s in classes if s.ended == WAITING and not search.is_settled(s)]


def needless(search: SearchState) -> list[int]:
    """Return the classes whose worker searches on, and cannot change the answer."""
    classes = search.classes.items()
    return [i for i, s in classes if not s.ended and search.is_settled(s)]


def unproved(plan: Plan) -> str:
    """Return why no worker has to prove its reports, or "" if each has to."""
    if plan.script:
        return "a worker of your own shows no witnesses"
    if plan.witness_bits is None:
        return "this search has no witnesses"
    return ""


def evidence(search: SearchState) -> dict[str, object] | None:
    """Return how sure `tested` is, in the form of results; None: see `unproved`."""
    plan = search.plan
    if plan.witness_bits is None:
        return None
    proofs = {i: progress.whole_proof for i, progress in search.classes.items()}
    bits = max(proof.level for proof in proofs.values())
    doubt = (1 - witness.CONFIDENCE) / len(proofs)  # of one class, so that of all fits
    return {
        "bits": plan.witness_bits,
        "witnesses": sum(p.of(plan.witness_bits) for p in proofs.values()),
        "expected": round(search.tested * 2.0**-plan.witness_bits, 1),
        "tested_at_least": witness.at_least(
            sum(proof.of(bits) for proof in proofs.values()), 2.0**-bits
        ),
        "least_share": min(
            _proved_share(search, i, proof, doubt) for i, proof in proofs.items()
        ),
        "confidence": witness.CONFIDENCE,
        "checked_below": search.checked,
    }


def _proved_share(search: SearchState, index: int, proof: Proof, doubt: float) -> float:
    """Return the share of a class that was tested at least."""
    piece = search.plan.pieces[index]
    size = piece.size(search.plan.nonces)
    checked = piece.size(search.checked)
    proved = witness.at_least(proof.count, 2.0**-proof.level, doubt)
    return round(min(1.0, max(proved, checked) / size), 4)


def _unfinished(plan: Plan, classes: Mapping[int, ClassProgress]) -> list[int]:
    """Return the classes that were not tested to their end, each nonce once."""
    return [
        i
        for i, s in classes.items()
        if s.ended != "exhausted"
        or s.cursor < plan.nonces
        or s.before + s.tested - s.repeated != plan.pieces[i].size(plan.nonces)
    ]


def _reasons(missing: Sequence[int], classes: Mapping[int, ClassProgress]) -> str:
    """Name the classes that were lost, the first few of them with the reason."""
    lost = [i for i in missing if classes[i].ended == "failed"] or missing
    shown = [
        f"class {i}: {classes[i].trouble or 'stopped short of its end'}"
        for i in lost[:3]
    ]
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return "; ".join(shown) + more
