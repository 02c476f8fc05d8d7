"""Whole runs in AWS's weather: nothing leaks, nothing is lost, nothing false is said.

`CND_WEATHER_SEED=7 pytest tests/weather` repeats them with another seed.  What takes
minutes is left to the slow module beside this one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.terminal import Terminal
from tests.weather.whole_runs import WAYS, a_user, faults_of

SEED = os.environ.get("CND_WEATHER_SEED", "1")
# Late answers and slow shutdowns cost a minute each time.
WEATHER = f"aws:{SEED},-timeout,-shutdown"


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    with a_user(tmp_path_factory, WEATHER) as user:
        print(WEATHER)
        yield user


def test_every_command_names_the_weather(user: Terminal) -> None:
    user.cloud()
    first, *_ = user.run("status").stderr.splitlines()

    assert first.startswith("cloud: local (http://127.0.0.1:")
    assert f"weather aws:{SEED},-shutdown,-timeout" in first


# A run that is cleaned up after is a start, too.
@pytest.mark.parametrize("kind", [kind for kind in WAYS if kind != "start"])
def test_a_whole_run_leaves_nothing_loses_nothing_and_says_nothing_false(
    user: Terminal, kind: str
) -> None:
    done = WAYS[kind](user)

    assert list(faults_of(user, done)) == [], f"{WEATHER}: {done.folder}"
