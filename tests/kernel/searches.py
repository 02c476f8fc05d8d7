"""Searches with known answers, and stretches to draw, for every kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from cnd import pow as worker
from tests.support.vectors import VECTORS

BLOCK = worker.DEFAULT_BLOCK
LAST = 2**64 - 1


@st.composite
def stretches(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw start, step and count, often where the length of a nonce changes."""
    step = draw(st.one_of(st.integers(1, 64), st.integers(1, 10**6)))
    count = draw(st.integers(1, 200))
    powers = st.sampled_from([*(10**e for e in range(20)), 2**32, 2**64])
    middle = draw(st.one_of(powers, st.integers(0, 2**64 - 1)))
    start = middle - step * draw(st.integers(0, count))
    return max(0, min(start, 2**64 - 1 - step * (count - 1))), step, count


def texts() -> st.SearchStrategy[str]:
    unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
    return st.one_of(st.just(BLOCK), unicode.filter(lambda t: len(t.encode()) <= 300))


def golden(native: Any, start: int, count: int) -> Iterator[int]:
    """Yield all golden nonces of range(start, start + count)."""
    end = start + count
    while start < end:
        nonce = native.scan(start, 1, end - start)
        start += native.tested
        if nonce is not None:
            yield nonce
    assert start == end


def full_space() -> list[int]:
    """Return every nonce below 2**32 that is golden at difficulty 6."""
    return [int(nonce) for nonce in VECTORS["blocks"][BLOCK]["full_space"]["golden"]]


def check_against_hashlib(
    scanner: Any, block: str, stretch: tuple[int, int, int], difficulty: int
) -> None:
    """Assert that a scanner finds and counts in a stretch what hashlib does."""
    start, step, count = stretch
    plain = worker.HashlibScanner(block, difficulty)
    hit = plain.scan(start, step, count)
    assert scanner.scan(start, step, count) == hit
    assert scanner.tested == plain.tested
    if hit is not None:  # a stretch that ends on the hit, and one just before it
        assert scanner.scan(start, step, plain.tested) == hit
        assert scanner.tested == plain.tested
        assert scanner.scan(start, step, plain.tested - 1) is None
        assert scanner.tested == plain.tested - 1
