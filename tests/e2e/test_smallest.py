"""The smallest golden nonce, through the front door, whatever N."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Terminal

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())
SMALLEST = VECTORS["blocks"]["COMSM0010cloud"]["smallest_golden_by_difficulty"]


def answers_with_the_smallest(terminal: Terminal, difficulty: int, n: int) -> None:
    options = ("--d", str(difficulty), "--n", str(n), "--t", "60")
    result = terminal.json("start", "--smallest", *options)
    assert result["nonce"] == SMALLEST[str(difficulty)]
    assert result["index"] == result["nonce"] % n
    assert result["smallest"] is True
    assert result["left_running"] == 0


@pytest.mark.parametrize(("difficulty", "n"), [(3, 3), (5, 5)])
def test_the_smallest_golden_nonce_is_the_answer(
    terminal: Terminal, difficulty: int, n: int
) -> None:
    answers_with_the_smallest(terminal, difficulty, n)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("difficulty", [1, 2, 3, 4, 5])
def test_the_answer_does_not_depend_on_n(
    terminal: Terminal, difficulty: int, n: int
) -> None:
    answers_with_the_smallest(terminal, difficulty, n)
