"""A sample of whole runs of each kind, each in a weather of its own.

`pytest -m weather -n 6 tests/weather` runs it, with the same seeds each time, so that a
change is judged by what it does and not by chance.  `CND_WEATHER_SEED=100` takes
others, from 100 on.
"""

from __future__ import annotations

import pytest

from tests.weather.whole_runs import (
    FIRST_SEED,
    QUICK_HABITS,
    WAYS,
    a_user,
    faults_of,
    log_of,
)

pytestmark = pytest.mark.weather
ROUNDS = 3
KINDS = list(WAYS) * ROUNDS
SEEDS = range(FIRST_SEED, FIRST_SEED + len(KINDS))


@pytest.mark.parametrize(
    ("seed", "kind"), [*zip(SEEDS, KINDS, strict=True)], ids=lambda value: f"{value}"
)
def test_a_whole_run_of_each_kind_is_right_in_the_weather(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    kind: str,
) -> None:
    weather = f"aws:{seed}{QUICK_HABITS}"
    told = request.node.user_properties
    told.append(("weather", weather))
    with a_user(tmp_path_factory, weather) as user:
        done = WAYS[kind](user)
        wrong = list(faults_of(user, done))
        told += [("wrong", each) for each in wrong]
        assert wrong == [], f"{kind} in {weather}, {done.folder}: {log_of(user)}"
