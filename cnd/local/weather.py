"""The weather of a local cloud: which of AWS's habits it has, and the seed they follow.

One rule: a value and its text only.  What a habit does is decided in
`cnd.local.api.weather`; this file is cheap to import, and a bad name is refused here.

    calm                        no habit: the default
    aws                         all habits, with a random seed
    aws:7                       all habits, with the seed 7
    aws:7,-throttle,-timeout    all but two
    aws:7,only=unknown+pages    these two
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from cnd.errors import UsageError

CALM, AWS = "calm", "aws"
MOST_SEED = 2**32 - 1
HINT = "for example aws, aws:7, aws:7,-throttle or aws:7,only=unknown+pages"

# Habit -> what it does.  `cnd.local.api.weather.habits` gives the source of each.
HABITS: Mapping[str, str] = {
    "unknown": "a new resource is unknown to some of the next calls, up to 5 s",
    "address": "an instance runs before its addresses are shown",
    "pages": "lists come in small pages, which may disagree",
    "forget": "a terminated instance loses its tags, and later is not listed",
    "shutdown": "shutting down takes minutes now and then",
    "queues": "a deleted queue is there for up to 60 s",
    "buckets": "the name of a removed bucket is not free at once",
    "groups": "an Auto Scaling group that is busy refuses to be deleted",
    "throttle": "calls beyond EC2's documented rates are refused",
    "errors": "some calls fail with status 500, with and without effect",
    "timeout": "a few answers come late, or never, though the request took effect",
    "replay": "a repeated CreateFleet does not name its instances",
}


@dataclass(frozen=True)
class Weather:
    """The habits of a cloud; none: calm."""

    habits: frozenset[str] = frozenset()
    seed: int = 0

    def __bool__(self) -> bool:
        return bool(self.habits)

    def __str__(self) -> str:
        """Return the text that `parse` turns into this value."""
        if not self.habits:
            return CALM
        missing = [name for name in HABITS if name not in self.habits]
        present = [name for name in HABITS if name in self.habits]
        if len(present) < len(missing):
            return f"{AWS}:{self.seed},only={'+'.join(present)}"
        return f"{AWS}:{self.seed}" + "".join(f",-{name}" for name in missing)


def parse(text: str) -> Weather:
    """Return the weather that a text names; a missing seed is drawn at random.

    Raises UsageError.
    """
    kind, *changes = text.split(",")
    name, colon, seed = kind.partition(":")
    if text in ("", CALM):
        return Weather()
    if name != AWS:
        raise _refused(text, f"it is {CALM} or begins with {AWS}")
    if colon and not (seed.isascii() and seed.isdecimal() and int(seed) <= MOST_SEED):
        raise _refused(text, f"{seed!r} is not a seed: a number up to {MOST_SEED}")
    return Weather(_habits(text, changes), int(seed) if colon else secrets.randbits(16))


def has_seed(text: str) -> bool:
    """Tell whether a text names a seed, so that it names one weather."""
    return text.split(",")[0] != AWS


def _habits(text: str, changes: list[str]) -> frozenset[str]:
    left = set(HABITS)
    for change in changes:
        if change.startswith("only=") and len(changes) == 1:
            left = {_known(text, name) for name in change[5:].split("+")}
        elif change.startswith("-"):
            left.discard(_known(text, change[1:]))
        else:
            raise _refused(text, f"{change!r} is neither -HABIT nor a single only=")
    return frozenset(left)


def _known(text: str, habit: str) -> str:
    if habit not in HABITS:
        raise _refused(text, f"no habit {habit!r}, only {', '.join(HABITS)}")
    return habit


def _refused(text: str, reason: str) -> UsageError:
    return UsageError(f"weather {text!r}: {reason}", hint=HINT)
