"""The resources of a cloud by number and age, and how often calls have asked for each.

One rule: it only counts; `habits` decides, and the clock is a parameter.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cnd.local.api.weather import habits

MOST = 10_000  # resources that are remembered


@dataclass
class _Resource:
    kind: str
    number: int  # among those of its kind
    born: float  # seconds, of the clock
    looks: int = 0


class Resources:
    """The resources of a cloud, of all kinds, by name."""

    def __init__(self, seed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seed, self._clock = seed, clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._known: OrderedDict[tuple[str, str], _Resource] = OrderedDict()

    def add(self, kind: str, name: str) -> int:
        """Note a new resource; return its number among those of its kind."""
        with self._lock:
            number = self._counts[kind]
            self._counts[kind] += 1
            self._known[kind, name] = _Resource(kind, number, self._clock())
            while len(self._known) > MOST:
                self._known.popitem(last=False)
            return number

    def number(self, kind: str, name: str) -> int:
        """Return the number of a resource; a new one if it is not known."""
        with self._lock:
            if found := self._known.get((kind, name)):
                return found.number
        return self.add(kind, name)

    def age(self, kind: str, name: str) -> float:
        """Return the age in seconds; infinity if the resource is not known."""
        with self._lock:
            found = self._known.get((kind, name))
            return self._clock() - found.born if found else float("inf")

    def is_unknown(self, kind: str, name: str) -> bool:
        """Count one more call that asks for a resource; tell if it does not know it."""
        with self._lock:
            found = self._known.get((kind, name))
            if found is None:
                return False
            age = self._clock() - found.born
            look, found.looks = found.looks, found.looks + 1
        return habits.is_unknown(self._seed, kind, found.number, look, age)

    def next(self, what: str) -> int:
        """Return the number of one more event of a kind, such as a call."""
        with self._lock:
            number = self._counts[what]
            self._counts[what] += 1
            return number
