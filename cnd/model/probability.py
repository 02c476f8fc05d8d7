"""The chances of a search: geometric trials over a finite nonce space.

One rule: arithmetic only.  A hash counts as a random number, so each nonce is an
independent trial that succeeds with p = 16**-D.  Powers of 1 - p are written with
`log1p` and `expm1`: at D = 64, p is 2**-256, and 1 - p would round to 1.

These probabilities hold for a block that was not searched yet.  For a known block the
golden nonces are fixed, and so is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cnd.errors import UsageError

BITS_PER_DIGIT = 4  # of the hash, in hex


@dataclass(frozen=True)
class Chances:
    """What a search by a fleet of a known hash rate may be expected to give."""

    trials: int  # nonces that can be tested within the time limit
    found: float  # P(a golden nonce is found within the time limit), 0..1
    exists: float  # P(there is any golden nonce in the whole space), 0..1
    expected_seconds: float  # mean time of search, however it ends
    median_seconds: float | None  # half of all searches have found by then, if half do


def success(difficulty: int) -> float:
    """Return p, the chance that one nonce is golden: 1 down to 2**-256."""
    return math.ldexp(1.0, -BITS_PER_DIGIT * difficulty)


def within(difficulty: int, trials: int) -> float:
    """Return P(at least one golden nonce among `trials` nonces).

    That is 1 - (1 - p)**n, the distribution function of the geometric distribution.
    """
    if trials <= 0:
        return 0.0
    if difficulty == 0:
        return 1.0
    return -math.expm1(trials * math.log1p(-success(difficulty)))


def expected_trials(difficulty: int, limit: int) -> float:
    """Return the mean number of nonces tested until one is golden, or `limit` are.

    The sum of P(no success in the first k) for k < limit: (1 - (1 - p)**limit) / p.
    """
    return within(difficulty, limit) / success(difficulty)


def trials_for(difficulty: int, confidence: float) -> int:
    """Return the least number of trials that succeed with probability `confidence`.

    Args:
        difficulty: leading zero hex digits wanted, 0 to 64.
        confidence: a probability in the open interval (0, 1).

    Returns:
        For difficulty 8 and confidence 0.95 it is about 1.29e10: three times the
        2**32 nonces there are.  The caller checks whether so many exist.

    Raises:
        UsageError: `confidence` is not strictly between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must be between 0 and 1, not {confidence}")
    if difficulty == 0:
        return 1
    exact = math.log1p(-confidence) / math.log1p(-success(difficulty))
    return _least(lambda n: within(difficulty, n) >= confidence, exact)


def chances(difficulty: int, nonces: int, rate: float, seconds: float) -> Chances:
    """Return the chances of a search of at most `seconds` seconds.

    Args:
        nonces: size of the space; no nonce is tested twice.
        rate: nonces/s of all instances together, above 0.  Their different starting
            times are ignored: the time limit runs from the first one.
    """
    trials = int(min(nonces, rate * seconds))
    half = trials_for(difficulty, 0.5)
    return Chances(
        trials=trials,
        found=within(difficulty, trials),
        exists=within(difficulty, nonces),
        expected_seconds=expected_trials(difficulty, trials) / rate,
        median_seconds=half / rate if half <= trials else None,
    )


def instances_for(
    difficulty: int, nonces: int, rate: float, seconds: float, confidence: float
) -> int | None:
    """Return the least N that finds within `seconds` with probability `confidence`.

    Args:
        rate: nonces/s of one instance, above 0.

    Returns:
        None if even the whole space holds a golden nonce with a lower probability.
    """
    wanted = trials_for(difficulty, confidence)
    if wanted > nonces:
        return None

    def enough(n: int) -> bool:
        return int(min(nonces, n * rate * seconds)) >= wanted

    return _least(enough, wanted / (rate * seconds))


def _least(enough: Callable[[int], bool], near: float) -> int:
    """Return the least n >= 1 that is `enough`; it differs from `near` by rounding.

    A float holds 53 bits: beyond 2**53 neighbouring whole numbers are the same float,
    and the answer is right to 15 digits.
    """
    n = max(1, math.ceil(near))
    step = max(1, n >> 52)
    while not enough(n):
        n += step
        step *= 2
    while n > 1 and n < 1 << 52 and enough(n - 1):
        n -= 1
    return n
