"""How far each class is at one moment, as a record; and a thinned series of progress.

A run's workers report their progress every second or two.  For a take-over the latest
report of each class is enough, with its proof; for pictures a report now and then.

One rule: pure.  What is restored decides as what was recorded did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from cnd.model.class_progress import ClassProgress
from cnd.model.events import PROGRESS, Event
from cnd.model.search_state import SearchState
from cnd.model.witness import LEVELS, Proof
from cnd.system.typed_json import fits, made

PROOFS = ("proof", "shown")
SERIES = "series"  # the field of a progress event that was kept for pictures
KEPT = ("cursor", "tested", "rate", "seconds")  # the fields of such an event
# Lines of a search in the time in which its length grows by the factor e, together and
# for each class at least: 48 hours of 500 instances take some 50,000.
LINES, LINES_OF_ONE = 4000, 10


@dataclass(frozen=True)
class Checkpoint:
    """The state of a search: what its events up to this moment have led to."""

    classes: Mapping[int, ClassProgress]

    def to_json(self) -> dict[str, Any]:
        """Return the record; what a field has from the beginning is left out."""
        return {"classes": {str(i): _packed(s) for i, s in self.classes.items()}}

    def restore(self, search: SearchState) -> None:
        """Set the classes of a search that was replayed up to this moment."""
        known = search.classes.keys()
        search.classes |= {i: s for i, s in self.classes.items() if i in known}


def of(search: SearchState) -> Checkpoint:
    """Return the state of a search."""
    return Checkpoint(dict(search.classes))


def from_json(record: Mapping[str, Any]) -> Checkpoint:
    """Return what `Checkpoint.to_json` recorded; ValueError if it is none."""
    classes = record.get("classes")
    if classes is None or not fits(classes, dict[str, dict[str, object]]):
        raise ValueError("is no checkpoint")
    return Checkpoint({int(i): _unpacked(each) for i, each in classes.items()})


def _packed(progress: ClassProgress) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for each in fields(ClassProgress):
        value = getattr(progress, each.name)
        if isinstance(value, Proof):
            counts = {str(b): n for b, n in enumerate(value.counts) if n}
            record[each.name] = [
                *(value.bits, value.thinned_to, value.last, value.left_out),
                counts,
            ]
        elif value != each.default:
            record[each.name] = value
    return record


def _unpacked(record: Mapping[str, Any]) -> ClassProgress:
    plain = {name: value for name, value in record.items() if name not in PROOFS}
    made_of = made(ClassProgress, plain)
    proof, shown = (_proof(record[n]) if n in record else None for n in PROOFS)
    return replace(made_of, proof=proof, shown=shown)


def _proof(record: object) -> Proof:
    if not isinstance(record, list) or len(record) != 5:
        raise ValueError("is no proof")
    *numbers, counted = record
    if not (fits(numbers, list[int]) and fits(counted, dict[str, int])):
        raise ValueError("is no proof")
    counts = [0] * LEVELS
    for bits, count in counted.items():
        counts[int(bits) % LEVELS] = count
    bits, thinned_to, last, left_out = numbers
    return Proof(bits, thinned_to, last, tuple(counts), left_out)


class Series:
    """Which progress of a class to keep, the rarer the longer its search lasts.

    So the lines that are kept grow with the logarithm of the time.  Of a short search
    all are kept.
    """

    def __init__(self, instances: int) -> None:
        self._lines = max(LINES_OF_ONE, LINES // max(1, instances))
        # When the first one of a class came, and the last one that was kept; by the
        # monotonic clock.
        self._times: dict[tuple[int | None, str | None], tuple[float, float]] = {}

    def kept(self, event: Event) -> Event | None:
        """Return a progress event as it is kept, without witnesses; None: it is not."""
        now, key = event.received, (event.index, event.host)
        first, last = self._times.get(key, (now, -1.0))
        if last >= 0 and now - last < (now - first) / self._lines:
            return None
        self._times[key] = (first, now)
        shown = {name: event.fields[name] for name in KEPT if name in event.fields}
        return replace(event, fields={**shown, SERIES: True})


def in_series(event: Event) -> bool:
    """Return whether an event is progress that was kept for pictures only."""
    return event.kind == PROGRESS and event.fields.get(SERIES) is True
