"""What happened, as values: the only way out of a thread.

One rule: code that observes something emits an `Event`; code that shows, stores or
decides reads events and nothing else.  `docs/events.md` explains every kind, and
a test compares that list with `KINDS`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from types import MappingProxyType
from typing import Any

from cnd.errors import CndError
from cnd.system.typed_json import fits

PROGRESS = "worker.progress"  # the only kind whose processing may be delayed
KINDS = frozenset(
    {
        "run.started",
        "run.attached",
        "run.stop_requested",
        "run.aborted",
        "run.ended",
        "launch.refused",
        "launch.delayed",
        "stray.found",
        "space.checked",
        "fleet.reduced",
        "fleet.reused",
        "instance.requested",
        "instance.launched",
        "instance.running",
        "instance.ready",
        "instance.lost",
        "instance.terminated",
        "worker.started",
        "worker.device",
        PROGRESS,
        "worker.found",
        "worker.exhausted",
        "worker.timeout",
        "worker.stopped",
        "worker.failed",
        "worker.noise",
        "worker.notice",
        "worker.refuted",
        "host.failed",
        "host.reconnecting",
        "host.returned",
        "host.late",
        "host.done",
        "class.handed_over",
        "log.pulled",
        "log.failed",
        "logs.uploaded",
        "cloud.trouble",
    }
)

# A worker ends with one of these.
LAST_WORDS = frozenset(
    f"worker.{word}" for word in ("found", "exhausted", "timeout", "stopped", "failed")
)

ENVELOPE = frozenset({"kind", "time", "index", "host"})

# The limits of what another machine may send; all beyond them is noise.
LARGEST = 1e20  # a number; no count comes near it
DEEPEST = 8  # lists and objects within each other
LATEST = 2.5e11  # seconds since the epoch, in the year 9892

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Event:
    """One thing that happened; `kind` is ``noun.past_participle``.

    `index` is the instance's place in the fleet (its residue class), `host` its
    instance id; both are None where the event is about the whole run.  `time` is
    seconds since the epoch on the clock of the machine that emitted it, `received` when
    this process got it, on its monotonic clock.
    """

    kind: str
    index: int | None = None
    host: str | None = None
    fields: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    time: float = field(default_factory=time.time)
    received: float = field(default_factory=monotonic, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such kind of event: {self.kind}")

    def to_json(self) -> str:
        """Return the event as one line of JSON, without the newline."""
        record: dict[str, Any] = {"kind": self.kind, "time": round(self.time, 3)}
        if self.index is not None:
            record["index"] = self.index
        if self.host is not None:
            record["host"] = self.host
        # A worker's fields must not replace the envelope.
        rest = {k: v for k, v in self.fields.items() if k not in ENVELOPE}
        return json.dumps({**record, **rest}, default=str)


Emit = Callable[[Event], None]


# The types of the fields on which readers of CND's own events rely, where such a field
# is there.  The fields of workers may be anything.
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "run.started": {
        **{"run": str, "block": str, "type": str, "script": str},
        **{"difficulty": int, "instances": int, "nonces": int},
        **{"time_limit": float, "lifetime": float, "smallest": bool},
        **{"work": list[list[int]], "chain": list[str], "tested_before": int},
        "known": int | None,
    },
    "fleet.reduced": {"wanted": int, "instances": int},
    "fleet.reused": {"of": str, "instances": int, "holds": float, "keep": bool},
    "instance.requested": {"count": int},
    "launch.delayed": {"seconds": float},
    "instance.launched": {"type": str, "zone": str | None, "spot": bool},
    "instance.running": {
        "address": str | None,
        "zone": str | None,
        "classes": list[int],
    },
    "instance.lost": {"at": float},
    "class.handed_over": {"start": int},
}


def from_json(line: str | bytes) -> Event:
    """Return the event that `Event.to_json` wrote; ValueError if it is none."""
    text = line.decode() if isinstance(line, bytes) else line
    record = plain(text, deepest=DEEPEST + 1)
    kind, seen = record.pop("kind", None), amount(record.pop("time", None))
    index, host = record.pop("index", None), record.pop("host", None)
    wrong = [
        n for n, t in FIELDS.get(str(kind), {}).items() if not _holds(record, n, t)
    ]
    if (
        wrong
        or not (isinstance(kind, str) and fits(index, int | None))
        or not (fits(host, str | None) and (index or 0) >= 0)
        or (seen is None or seen > LATEST)
    ):
        raise ValueError(f"not an event: {text[:80]!r}")
    return Event(kind=kind, time=seen, index=index, host=host, fields=record)


def _holds(record: Mapping[str, object], name: str, hint: Any) -> bool:
    return name not in record or fits(record[name], hint)


def from_worker(line: str, *, index: int, host: str) -> Event:
    """Return the event in a line of a worker's output; any other line is noise.

    A worker runs on another machine: its output is kept and shown, and whatever it is,
    it never ends the run.
    """
    try:
        record = plain(line)
        kind = f"worker.{record.pop('event')}"
        seen = amount(record.pop("time", time.time()))
        if kind == "worker.refuted" or seen is None or seen > LATEST:
            raise ValueError("not an event of a worker")
        return Event(kind, index, host, record, seen)
    except (ValueError, KeyError):
        return Event("worker.noise", index, host, {"text": line[:1000]})


def plain(text: str | bytes, *, deepest: int = DEEPEST) -> dict[str, Any]:
    """Return a JSON object from another machine, safe for every later use.

    Raises:
        ValueError: it is no object, or holds a number beyond `LARGEST`, NaN, or more
            than `deepest` levels.
    """
    try:
        found = json.loads(
            text, parse_int=_integer, parse_float=_float, parse_constant=_float
        )
    except RecursionError as error:
        raise ValueError("nested without end") from error
    if not isinstance(found, dict) or not _is_shallow(found, deepest):
        raise ValueError("not a plain object")
    return found


def amount(value: object) -> float | None:
    """Return a finite number that is not negative, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value < 1e300 else None


def _integer(text: str) -> int:
    _float(text)  # an integer of a million digits would take long to parse
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not abs(value) <= LARGEST:  # also what is no number
        raise ValueError(f"{text[:20]} is larger than any number here")
    return value


def _is_shallow(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return levels > 0 and all(_is_shallow(each, levels - 1) for each in value)


def printable_line(text: str) -> str:
    """Return text from another machine as one line that cannot control a terminal.

    A lone surrogate, which cannot be encoded as UTF-8, is replaced as well.
    """
    return "".join(c if c.isprintable() else " " for c in text)


def trouble(error: CndError) -> Event:
    """Return the event of a failure that does not end the run."""
    return Event("cloud.trouble", fields={"reason": str(error), "hint": error.hint})
