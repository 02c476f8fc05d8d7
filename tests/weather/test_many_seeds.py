"""Two hundred whole runs, each in a weather of its own with all habits."""

from __future__ import annotations

import pytest

from tests.support.terminal import Terminal
from tests.weather.whole_runs import WAYS, a_user, faults_of, log_of

pytestmark = pytest.mark.slow
RUNS = 200
KINDS = list(WAYS)


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_whole_run_is_right_whatever_the_seed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    calm: Terminal,
    seed: int,
) -> None:
    kind = KINDS[seed % len(KINDS)]
    # Just before, on a machine that is as busy.
    in_calm = WAYS[kind](calm).seconds
    with a_user(tmp_path_factory, f"aws:{seed}") as user:
        done = WAYS[kind](user)
        wrong = list(faults_of(user, done))
        told = request.node.user_properties
        told.append(("weather", f"aws:{seed}"))
        told.append(("weather_seconds", done.seconds - in_calm))
        told += [("wrong", each) for each in wrong]
        assert wrong == [], f"{kind} in aws:{seed}, {done.folder}: {log_of(user)}"
