"""How much a worker must have tested to show the witnesses that it shows.

A witness is a nonce whose hash begins with `bits` zero bits: too few for a golden one,
but so many that a worker hashes about ``2**bits`` nonces for each.  An honest worker
shows every witness that it meets.

One rule: pure arithmetic, and every bound errs in favour of the worker.

The law.  Of n nonces the count of witnesses is binomial with p = 2**-bits.  A claim is
false if so few would occur with a probability below `FALSE_ALARM`, by Chernoff's bound

    P(count <= c) <= exp(-n KL(c/n || p)),
    KL(a || p) = a ln a/p + (1-a) ln (1-a)/(1-p)

The test may be repeated as often as wanted: the count never falls, so a claim that is
false with c witnesses was false at the smallest n for which c are too few.  There is
one such n for each c; so the probability to reject an honest worker is below
`FALSE_ALARM` times the witnesses of the run (plus one a class), however many reports
there are.

Source: W. Hoeffding, Probability Inequalities for Sums of Bounded Random Variables
(1963), theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cnd import pow as worker

FALSE_ALARM = 1e-15  # a probability; a claim that is less probable is false
CONFIDENCE = 0.999  # of what the result says was tested

# How many bits.  256 to 512 witnesses of a class that is searched as far as is to be
# expected: a worker that has searched 56 % of it or less cannot claim all of it.
ENOUGH = 8  # bits: 2**8 witnesses
RAREST = 24  # bits; a worker that does 10**8 nonces/s meets one in 0.17 s
OFTENEST = 4  # bits; more often, the hits would cost more than the hashes
# Witnesses of the whole fleet, so that carrying and checking them takes one or two
# percent of a core: 50 KB/s of events, 10 ms of hashing a second.
MOST_A_SECOND = 2.0**12
MOST_OF_ONE = 2.0**9  # a second, of one instance: 6 to 11 KB of events
# Nonces/s of an instance whose rate is not known: the low one where enough witnesses
# are wanted, the high one where they must not be too many.
SLOW, FAST = 2.0**20, 2.0**27

MOST_AT_ONCE = 4096  # witnesses in one event; no worker of CND shows so many
# A worker that shows only the strongest ones has 512 left, of all so far.
THINNED_TO = 256
LEVELS = 257  # zero bits that a hash can begin with, 0..256


class FalseClaim(ValueError):
    """A report that no honest worker sends; the text completes "its claim: ..."."""


class LostWitnesses(FalseClaim):
    """Events of a worker were lost on the way, or so it seems: its proof has a gap."""


def bits_for(
    difficulty: int,
    nonces: int,
    instances: int,
    seconds: float,
    rate: float | None = None,
) -> int | None:
    """Return how many zero bits make a witness, or None where nothing is left for one.

    A class shows 2**`ENOUGH` witnesses or more by the end of the space, by the first
    find that is to be expected, or by the time limit.  There are more bits (rarer
    witnesses) where the time limit ends the search and a fast fleet would show too many
    a second.  A golden nonce has at least two bits more; none lies below a cursor.

    Args:
        difficulty: leading zero hex digits of a golden nonce, 0..64.
        seconds: the time limit.
        rate: nonces/s of one instance, if that is known.
    """
    most = min(RAREST, 4 * difficulty - 2)
    if most < 1:
        return None
    size = math.log2(min(nonces, 16**difficulty) / instances)
    in_time = math.log2(max(1.0, (rate or SLOW) * seconds))
    one = min(MOST_OF_ONE, MOST_A_SECOND / instances)  # a second
    bearable = math.log2(max(1.0, (rate or FAST) / one))
    wanted = min(size - ENOUGH, max(in_time - ENOUGH, bearable))
    return min(most, max(OFTENEST, math.floor(wanted)))


def chance(bits: int, difficulty: int) -> float:
    """Return a lower bound of P(witness) for a nonce that is not golden."""
    return 2.0**-bits - 16.0**-difficulty


def is_implausible(tested: int, count: int, chance: float) -> bool:
    """Return whether `tested` nonces can hardly have only `count` witnesses."""
    short = count < tested * chance
    return short and _log_tail(tested, count, chance) < math.log(FALSE_ALARM)


def most_plausible(least: int, claimed: int, count: int, chance: float) -> int:
    """Return the most of `claimed` nonces, `least` or more, that is plausible."""
    if not is_implausible(claimed, count, chance):
        return claimed
    return _last(least, claimed, lambda n: not is_implausible(n, count, chance))


def at_least(count: int, chance: float, doubt: float = 1 - CONFIDENCE) -> int:
    """Return a lower bound of the nonces that were tested to meet `count` witnesses.

    With fewer nonces, the probability to meet so many is below `doubt`.
    """
    if count == 0:
        return 0
    few = math.log(doubt)
    return _last(
        count, round(count / chance), lambda n: _log_tail(n, count, chance) <= few
    )


def _log_tail(tested: int, count: int, chance: float) -> float:
    """Return Chernoff's bound on `count` or a value further off, as a logarithm."""
    share = count / tested
    if share >= 1.0:
        return tested * math.log(chance)
    rest = (1 - share) * (math.log1p(-share) - math.log1p(-chance))
    return -tested * (rest + (share * math.log(share / chance) if share else 0.0))


def _last(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the last number from `low` to `high` for which a monotonic test holds."""
    if not holds(low):
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def zero_bits(block: str, nonce: int) -> int:
    """Return with how many zero bits the hash of `nonce` begins, 0..256."""
    return 256 - int(worker.digest(block, nonce), 16).bit_length()


@dataclass(frozen=True)
class Proof:
    """The witnesses that were shown for one class, each checked and counted once."""

    bits: int  # the fewest zero bits of a witness
    thinned_to: int = 0  # bits: of the witnesses with fewer bits some may be missing
    last: int = -1  # the highest one
    counts: tuple[int, ...] = (0,) * LEVELS  # by their zero bits
    # How many the worker has shown that did not come: a summary stood in their place.
    left_out: int = 0

    @property
    def level(self) -> int:
        """The fewest zero bits of which no witness is missing."""
        return max(self.bits, self.thinned_to)

    @property
    def count(self) -> int:
        """How many there are of `level` zero bits or more."""
        return self.of(self.level)

    def of(self, bits: int) -> int:
        """Return how many there are of `bits` zero bits or more."""
        return sum(self.counts[bits:])

    def plus(self, other: Proof) -> Proof:
        """Return this proof with that of another part of the class."""
        pairs = zip(self.counts, other.counts, strict=True)
        counts = tuple(mine + its for mine, its in pairs)
        thinned_to = max(self.thinned_to, other.thinned_to)
        return replace(self, thinned_to=thinned_to, counts=counts)

    def thinned(self, bits: object, most: int) -> Proof:
        """Return this proof for a worker that shows only the strongest witnesses.

        It may do so if there are too many: `pow.PendingWitnesses`, `EventBuffer`.

        Args:
            bits: the zero bits of those that it shows, at least.
            most: bits; a golden nonce has more.

        Raises:
            FalseClaim: so few were shown that there is no reason to leave out others.
        """
        if not isinstance(bits, int) or isinstance(bits, bool):
            raise FalseClaim(f"{str(bits)[:20]!r} is no number of bits")
        if bits <= self.level:
            return self
        if bits > most or self.of(bits) < THINNED_TO:
            raise FalseClaim(
                f"it leaves out witnesses, and has shown {self.of(self.bits)}"
            )
        return replace(self, thinned_to=bits)

    def require_whole(self, shown: object) -> None:
        """Raise `LostWitnesses` if a worker has shown more witnesses than arrived."""
        here = sum(self.counts) + self.left_out
        if isinstance(shown, int) and shown > here:
            raise LostWitnesses(
                f"of {shown} witnesses that it has shown {here} came here"
            )

    def summed_up(self, shown: object) -> Proof:
        """Return this proof after a summary of all `shown` witnesses so far."""
        if not isinstance(shown, int) or isinstance(shown, bool):
            return self
        return replace(self, left_out=max(0, shown - sum(self.counts)))

    def extended(
        self, block: str, members: range, shown: Sequence[object], most: int
    ) -> Proof:
        """Return this proof with the witnesses of one event.

        A witness that is not above the last one was counted before: an event may arrive
        twice.

        Args:
            members: the nonces that witnesses may be.
            most: bits; a golden nonce has more.

        Raises:
            FalseClaim: one of them is no witness, or golden, or they do not ascend.
        """
        last, before, counts = self.last, -1, list(self.counts)
        for nonce in shown:
            if not isinstance(nonce, int) or isinstance(nonce, bool):
                raise FalseClaim(f"{nonce!r} is no nonce")
            if nonce <= before:
                raise FalseClaim(f"the witness {nonce} comes after {before}")
            before = nonce
            if nonce <= last:
                continue
            if nonce not in members:
                raise FalseClaim(f"the witness {nonce} lies outside what it has tested")
            zeros = zero_bits(block, nonce)
            if zeros < self.bits:
                raise FalseClaim(f"{nonce} has {zeros} zero bits, and is no witness")
            if zeros > most:  # it was to be reported as found
                raise FalseClaim(f"{nonce} is golden, and was shown as a witness")
            counts[zeros] += 1
            last = nonce
        return replace(self, last=last, counts=tuple(counts))
