"""How a run can end, and what the answer is.

One rule: values only.  `cnd.model.search_state` decides which of them a run has.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
    """How the run ended and why; the rest only where a nonce was found."""

    ending: Ending
    reason: str  # completes "ended: ..."
    nonce: int | None = None
    digest: str | None = None  # 64 hex digits
    index: int | None = None
    host: str | None = None
    # Of the user's own worker: what its claim says, and whether it was confirmed.
    answer: str | None = None
    verified: bool | None = None
