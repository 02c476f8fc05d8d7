"""The result of a run: the object behind `--json`, `result.json` and the last lines.

One rule: everything here was seen, not assumed; what is unknown is null.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cnd.model.outcome import Outcome
from cnd.model.plan import Plan


@dataclass(frozen=True)
class Seconds:
    """How long each phase took; null where the run did not get there.

    `stop` lies between the decision to stop and the last event of the last worker;
    `logs` and `scram` overlap, since uploads go on while the instances end.
    """

    boot: float | None  # from the start of the command until a worker searches
    search: float | None
    stop: float | None
    logs: float | None
    scram: float | None
    total: float

    @classmethod
    def of(cls, marks: Mapping[str, float], began: float, now: float) -> Seconds:
        """Return the phases of a run that began at `began`, up to `now`.

        Args:
            marks: when it reached "searching", "decided", "stopped", "logged",
                "scramming" and "scrammed", as far as it did, on the same clock.
            now: what came later is not counted: the fleet had ended by then.
        """

        def between(first: str, last: str) -> float | None:
            if first not in marks or last not in marks:
                return None
            seconds = min(now, marks[last]) - min(now, marks[first])
            return round(max(0.0, seconds), 4)

        boot = marks.get("searching")
        return cls(
            boot=None if boot is None else round(boot - began, 4),
            search=between("searching", "decided"),
            stop=between("decided", "stopped"),
            logs=between("stopped", "logged"),
            scram=between("scramming", "scrammed"),
            total=round(max(0.0, now - began), 4),
        )


@dataclass(frozen=True)
class Result:
    """One run, as scripts read it; see the contract in docs/cli.md."""

    run: str
    cloud: str
    region: str
    outcome: Outcome
    block: str
    difficulty: int | None  # None: the worker is the user's own
    instances: int
    asked: int  # instances requested; more than `instances` if fewer were available
    fleet: list[dict[str, object]]  # every instance: id, index, type, zone
    # Hashes computed, those done twice counted twice; None: a worker has not reported.
    tested: int | None
    repeated: int  # of these, done twice because a class was handed over
    # With what workers may have tested after their last reports that arrived.
    repeated_at_most: int
    coverage: list[dict[str, object]]  # per class, see `SearchState.coverage`
    hash_rate: float | None  # nonces/s while searching
    kernel: str | None
    seconds: Seconds
    usd: float | None
    logs_local: str
    logs_s3: str | None
    terminated: Mapping[str, float]  # instance id -> when it was seen, since the epoch
    kept: tuple[str, ...]  # ids left running because the user requested it
    leaked: tuple[str, ...]  # ids that were not seen terminated
    # Whether no golden nonce is smaller; None where --smallest did not ask for it.
    smallest: bool | None = None
    # The proof of `tested`: `search_state.evidence`.  None: `unproved` says why.
    evidence: Mapping[str, object] | None = None
    unproved: str = ""
    plan: Plan | None = None
    # Nonces that this run and those that it resumes have tested, each counted once.
    tested_in_all: int | None = None

    def _chain(self) -> dict[str, object]:
        """Return what a run that resumes this one needs, and what this one resumes."""
        if self.plan is None:
            return {}
        chain = self.plan.chain
        return {
            "resumes": chain[-1] if chain else None,
            "chain": list(chain),
            "tested_before": self.plan.tested_before,
            "tested_in_all": self.tested_in_all,
            "plan": self.plan.options(),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the object of the contract."""
        left = [*self.kept, *self.leaked]
        return {
            "run": self.run,
            "cloud": self.cloud,
            "region": self.region,
            "outcome": self.outcome.ending.outcome,
            "reason": self.outcome.reason,
            "nonce": self.outcome.nonce,
            "hash": self.outcome.digest,
            "smallest": self.smallest,
            "answer": self.outcome.answer,
            "verified": self.outcome.verified,
            "index": self.outcome.index,
            "instance_id": self.outcome.host,
            "block": self.block,
            "difficulty": self.difficulty,
            "instances": self.instances,
            "asked": self.asked,
            "fleet": self.fleet,
            "tested": self.tested,
            "repeated": self.repeated,
            "repeated_at_most": self.repeated_at_most,
            "coverage": self.coverage,
            "evidence": self.evidence and dict(self.evidence),
            "unproved": self.unproved or None,
            **self._chain(),
            "hash_rate": self.hash_rate,
            "kernel": self.kernel,
            "seconds": asdict(self.seconds),
            "usd": self.usd,
            "logs": {"local": self.logs_local, "s3": self.logs_s3},
            "terminated": len(self.terminated),
            "left_running": len(left),
            "receipt": {
                "terminated": {i: _utc(at) for i, at in self.terminated.items()},
                "left_running": left,
                "kept": list(self.kept),  # of those, by request of the user
            },
        }


def _utc(seconds: float) -> str:
    """Return a time since the epoch in ISO 8601."""
    when = dt.datetime.fromtimestamp(seconds, dt.timezone.utc)
    return when.isoformat(timespec="seconds")
