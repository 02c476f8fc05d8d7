"""What is left of a search is dealt to the next fleet: each nonce once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.model.pieces import (
    UNEVEN,
    Owners,
    Piece,
    dealt,
    remaining,
    split,
    unfinished,
    whole_classes,
)

SPACES = st.integers(1, 10**4)
quick = settings(max_examples=40, deadline=None)


def nonces_of(pieces: Sequence[Piece], end: int) -> Counter[int]:
    """Return how often each nonce is in one of the pieces."""
    return Counter(nonce for piece in pieces for nonce in piece.within(end))


@st.composite
def covered(draw: st.DrawFn, fleets: st.SearchStrategy[int]) -> tuple[int, list[Piece]]:
    """Draw a space, and how far each class of a fleet has tested it."""
    space = draw(SPACES)
    instances = min(space, draw(fleets))
    far = draw(st.integers(0, space // instances + 1))
    pieces = [
        piece._replace(start=piece.start + draw(st.integers(0, far)) * instances)
        for piece in whole_classes(instances)
    ]
    return space, pieces


def complement(space: int, pieces: Sequence[Piece]) -> set[int]:
    """Return what is not tested, worked out nonce by nonce."""
    cursor = {piece.residue: piece.start for piece in pieces}
    instances = len(pieces)
    return {nonce for nonce in range(space) if nonce >= cursor[nonce % instances]}


@pytest.mark.parametrize(
    "fleet",
    [
        pytest.param(lambda n, k: n, id="as many"),
        pytest.param(lambda n, k: n * k, id="a multiple"),
        pytest.param(lambda n, k: max(1, n // (k + 1)), id="fewer"),
        pytest.param(lambda n, k: n * k + 1, id="more, coprime"),
        pytest.param(lambda n, k: max(1, n - k), id="some fewer"),
        pytest.param(lambda n, k: k, id="any"),
    ],
)
@quick
@given(data=st.data(), k=st.integers(1, 9))
def test_the_next_fleet_gets_exactly_the_complement(
    fleet: object, data: st.DataObject, k: int
) -> None:
    assert callable(fleet)
    space, pieces = data.draw(covered(st.integers(1, 40)))
    instances = fleet(len(pieces), k)

    work = dealt(remaining(pieces, space), space, instances)

    counts = nonces_of(work, space)
    assert counts.keys() == complement(space, pieces)
    assert set(counts.values()) <= {1}
    assert all(piece.size(space) for piece in work)
    assert all(piece.modulus <= space for piece in work)
    assert len(work) >= min(instances, 1) * bool(counts)


@quick
@given(
    space=SPACES,
    instances=st.integers(1, 12),
    fleets=st.lists(st.tuples(st.integers(1, 24), st.integers(0, 300)), max_size=6),
    data=st.data(),
)
def test_a_chain_of_runs_tests_each_nonce_once(
    space: int, instances: int, fleets: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Each run tests some of its pieces, from their starts on; the last one all."""
    work: Sequence[Piece] = whole_classes(min(space, instances))
    tested: Counter[int] = Counter()
    for following, steps in fleets:
        after = []
        for piece in work:
            done = min(piece.size(space), data.draw(st.integers(0, steps)))
            tested.update(list(piece.within(space))[:done])
            after.append(piece._replace(start=piece.start + done * piece.modulus))
        work = dealt(remaining(after, space), space, following)
    tested.update(nonces_of(work, space))

    assert tested == Counter(range(space))


def test_a_fleet_of_the_same_size_goes_on_with_the_same_classes() -> None:
    pieces = [Piece(8, i + 8 * 100) for i in range(8)]

    assert sorted(dealt(pieces, 10**4, 8), key=lambda p: p.start) == pieces


def test_a_fleet_of_twice_the_size_gets_each_class_in_halves() -> None:
    pieces = [Piece(4, i) for i in range(4)]

    work = dealt(pieces, 4000, 8)

    assert sorted((p.modulus, p.start) for p in work) == [(8, i) for i in range(8)]


@pytest.mark.parametrize(("instances", "count"), [(8, 8), (16, 16), (4, 8), (12, 48)])
def test_the_table_of_the_document_is_what_is_dealt(instances: int, count: int) -> None:
    text = (Path(__file__).parents[3] / "docs" / "resume.md").read_text()

    assert f"| M = {instances} | {count} |" in text
    assert len(dealt(whole_classes(8), 96_000, instances)) == count


@quick
@given(covered(st.integers(1, 40)), st.integers(1, 40))
def test_no_instance_gets_much_more_than_its_share(
    found: tuple[int, list[Piece]], instances: int
) -> None:
    """As far as there are nonces to share: here 100 for each instance or more."""
    space, pieces = found
    left = remaining(pieces, space)
    share = sum(piece.size(space) for piece in left) / instances
    if share < 100:
        return
    loads = [0] * instances
    for piece in dealt(left, space, instances):
        loads[loads.index(min(loads))] += piece.size(space)

    assert max(loads) <= 1.2 * UNEVEN * share + 1


def test_a_thousand_instances_are_dealt_to_at_once() -> None:
    work = dealt(whole_classes(700), 2**64, 1000)

    assert 1000 <= len(work) <= 6000
    assert sum(piece.size(2**64) for piece in work) == 2**64


@given(st.integers(1, 50), st.integers(0, 500), st.integers(1, 9), st.integers(0, 80))
def test_what_was_tested_without_proof_is_counted_once_by_the_parts(
    modulus: int, start: int, parts: int, again: int
) -> None:
    end = 10**4
    piece = Piece(modulus, start, again)
    first = set(list(piece.within(end))[:again])

    cut = list(split(piece, parts, end))

    assert {n for part in cut for n in list(part.within(end))[: part.again]} == first


@quick
@given(covered(st.integers(1, 12)), st.integers(1, 24))
def test_the_owner_of_a_nonce_is_the_piece_that_has_it(
    found: tuple[int, list[Piece]], instances: int
) -> None:
    space, pieces = found
    work = dealt(remaining(pieces, space), space, instances)
    owners = Owners(work)

    for nonce in range(0, space, 7):
        having = [i for i, piece in enumerate(work) if nonce in piece.within(space)]
        assert owners.of(nonce) == (having[0] if having else None)


def test_the_coverage_of_an_older_version_goes_on_at_its_cursors() -> None:
    rows = [{"index": 0, "cursor": 40}, {"index": 1, "cursor": 11}]

    assert list(unfinished(rows, 2)) == [Piece(2, 40), Piece(2, 11)]


@pytest.mark.parametrize("row", [{}, {"cursor": "x"}, {"cursor": 1, "of": 0}])
def test_a_coverage_that_makes_no_sense_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no part of a coverage"):
        list(unfinished([row], 2))
