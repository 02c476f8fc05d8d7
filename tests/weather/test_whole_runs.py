"""A whole run in AWS's weather, as a habit: more of them are in the modules beside.

`CND_WEATHER_SEED=7 pytest tests/weather` takes another seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.terminal import Terminal
from tests.weather.whole_runs import FIRST_SEED, QUICK_HABITS, WAYS, a_user, faults_of

SEED = FIRST_SEED
WEATHER = f"aws:{SEED}{QUICK_HABITS}"


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    with a_user(tmp_path_factory, WEATHER) as user:
        yield user


def test_every_command_names_the_weather(user: Terminal) -> None:
    first, *_ = user.run("status").stderr.splitlines()

    assert first.startswith("cloud: local (http://127.0.0.1:")
    assert f"weather {WEATHER}" in first


def test_a_whole_run_leaves_nothing_loses_nothing_and_says_nothing_false(
    user: Terminal,
) -> None:
    done = WAYS["start"](user)

    assert list(faults_of(user, done)) == [], f"{WEATHER}: {done.folder}"
