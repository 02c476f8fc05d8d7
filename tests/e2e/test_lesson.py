"""The lesson of `examples/`, small: searches of growing difficulty on one fleet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import told
from tests.support.terminal import Terminal

LESSON = Path(__file__).parents[2] / "examples" / "lesson.py"


def lesson(terminal: Terminal, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, LESSON, *words],
        env=terminal.environment,
        cwd=terminal.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,  # its status is the test's to judge
    )


def test_the_lesson_searches_on_one_fleet_shows_its_cost_and_ends_it(
    terminal: Terminal,
) -> None:
    before = set(terminal.runs())
    done = lesson(terminal, "--n", "2", "--d", "2-3", "--t", "60")
    assert done.returncode == 0, done.stderr
    title, two, three, one, each = done.stdout.splitlines()
    assert title.split()[:2] == ["D", "expected"]
    assert [line.split()[:2] for line in (two, three)] == [["2", "256"], ["3", "4,096"]]
    assert one.startswith("one fleet of 2 for ")
    assert each.startswith("a fleet for each of 2 searches: $")
    first, second = sorted(set(terminal.runs()) - before)
    assert len(told(first, "instance.requested")) == 1
    assert told(second, "instance.requested") == []
    assert terminal.live() == []


@pytest.mark.paced
def test_a_lesson_that_fails_leaves_no_fleet(terminal: Terminal) -> None:
    # Its second search does not fit.
    done = lesson(terminal, "--n", "1", "--d", "64-65", "--t", "1")
    assert done.returncode == 1, done.stderr
    assert "difficulty 65 ended with status 2" in done.stderr
    assert terminal.live() == []
