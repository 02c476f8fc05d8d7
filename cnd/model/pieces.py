"""What a search has left of its space, and how it is dealt to the next fleet.

A piece is the rest of a residue class: its nonces from a start on, in ascending order.
A run of its own has one whole class for each instance; a run that resumes another one
has the pieces that are left of that one's classes.

The law.  Class i modulo N from nonce s on is the disjoint union of the k classes that
begin at s + N j and have the modulus N k, for j = 0 ... k - 1.  So pieces that are
disjoint stay disjoint however they are split, and nothing is left out.

One rule: pure arithmetic; no nonce is in two pieces.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from math import gcd
from typing import NamedTuple

# How much longer than its even share an instance may search, and into how many pieces
# that share is cut where whole pieces would keep one busy for longer.
UNEVEN, CUTS = 1.25, 4


class Piece(NamedTuple):
    """The nonces start, start + modulus, ... of the space."""

    modulus: int
    start: int
    # How many of these, the first ones, were tested before without a sufficient proof:
    # they are tested once more, and counted as repeated.
    again: int = 0
    # How many after these may have been, at most: nothing tells.
    perhaps: int = 0

    @property
    def residue(self) -> int:
        """The class that it is a part of: the nonces congruent to this."""
        return self.start % self.modulus

    def size(self, end: int) -> int:
        """Return how many of its nonces are below `end`."""
        return members(self.start, self.modulus, end)

    def within(self, end: int) -> range:
        """Return its nonces below `end`."""
        return range(self.start, end, self.modulus)


def members(start: int, step: int, end: int) -> int:
    """Return how many numbers start, start + step, ... are below `end`."""
    return max(0, (end - start + step - 1) // step)


def whole_classes(instances: int) -> tuple[Piece, ...]:
    """Return the residue classes modulo `instances`, whole."""
    return tuple(Piece(instances, index) for index in range(instances))


def remaining(covered: Iterable[Piece], end: int) -> list[Piece]:
    """Return the pieces that have nonces left below `end`.

    Args:
        covered: each class of a search from the nonce below which all of it is tested.
    """
    return [piece for piece in covered if piece.start < end]


def split(piece: Piece, parts: int, end: int) -> Iterator[Piece]:
    """Yield the nonces of a piece as disjoint pieces with `parts` times its modulus."""
    for j in range(parts):
        start, again = piece.start + piece.modulus * j, members(j, parts, piece.again)
        perhaps = members(j, parts, piece.again + piece.perhaps) - again
        if start < end:
            yield Piece(piece.modulus * parts, start, again, perhaps)


def dealt(pieces: Sequence[Piece], end: int, instances: int) -> tuple[Piece, ...]:
    """Return the same nonces as pieces for a fleet, the largest first.

    Instance i begins with piece i.  Each of the further pieces waits until an instance
    has nothing left to search.  There are fewer pieces than instances only where fewer
    nonces are left.

    Args:
        end: nonces from here on are not needed.
    """
    whole = sum(piece.size(end) for piece in pieces)
    share = whole / max(1, instances)
    fitting = _cut(pieces, end, instances, share)
    if _longest(fitting, end, instances) > UNEVEN * share:
        fitting = _cut(pieces, end, instances, share / CUTS)
    return tuple(sorted(fitting, key=lambda piece: (-piece.size(end), piece.start)))


def _cut(pieces: Sequence[Piece], end: int, instances: int, size: float) -> list[Piece]:
    """Return the nonces of `pieces` in pieces of about `size`, or smaller ones."""
    cut: list[Piece] = []
    for piece in pieces:
        left = piece.size(end)
        # A modulus cannot exceed the space; no split of a piece has empty parts.
        most = min(left, max(1, end // piece.modulus))
        parts = min(most, max(1, round(left / size))) if left else 0
        cut += split(piece, parts, end)
    while len(cut) < instances:  # rounding has left an instance without a piece
        largest = max(cut, key=lambda piece: piece.size(end), default=None)
        if largest is None or min(largest.size(end), end // largest.modulus) < 2:
            break
        cut.remove(largest)
        cut += split(largest, 2, end)
    return cut


def _longest(pieces: Iterable[Piece], end: int, instances: int) -> int:
    """Return how many nonces the instance with the most of them has to test."""
    loads = [0] * instances
    for size in sorted((piece.size(end) for piece in pieces), reverse=True):
        heapq.heapreplace(loads, loads[0] + size)
    return max(loads)


class Owners:
    """Finds the piece that a nonce belongs to."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._numbers: dict[int, dict[int, list[int]]] = {}
        for number, piece in enumerate(pieces):
            of_modulus = self._numbers.setdefault(piece.modulus, {})
            of_modulus.setdefault(piece.residue, []).append(number)

    def of(self, nonce: int) -> int | None:
        """Return the number of the piece with a nonce; None: it is in none."""
        for modulus, by_residue in self._numbers.items():
            for number in by_residue.get(nonce % modulus, ()):
                if nonce >= self._pieces[number].start:
                    return number
        return None


def are_disjoint(pieces: Iterable[Piece]) -> bool:
    """Whether no nonce is in two pieces, however large the space is.

    Two classes have a nonce in common if their residues are the same modulo the
    greatest common divisor of their moduli.
    """
    by_modulus: dict[int, set[int]] = {}
    for piece in pieces:
        residues = by_modulus.setdefault(piece.modulus, set())
        if piece.residue in residues:
            return False
        residues.add(piece.residue)
    for (m, some), (n, others) in combinations(by_modulus.items(), 2):
        common = gcd(m, n)
        if not {r % common for r in some}.isdisjoint(r % common for r in others):
            return False
    return True


def unfinished(rows: Iterable[Mapping[str, object]], instances: int) -> Iterator[Piece]:
    """Yield how far each class was tested, from the rows of a result's `coverage`.

    Rows of older versions have neither a modulus nor a nonce to go on from.

    Raises:
        ValueError: a row makes no sense.
    """
    for row in rows:
        modulus = row.get("of", instances)
        start = row.get("next", row.get("cursor"))
        again = row.get("again", 0)
        most = row.get("again_at_most", again)
        for value, least in ((modulus, 1), (start, 0), (again, 0), (most, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{str(value)[:20]!r} is no part of a coverage")
        perhaps = max(0, most - again)  # type: ignore[operator]  # checked
        yield Piece(modulus, start, again, perhaps)  # type: ignore[arg-type]
