"""What earlier runs measured, and how long instances were billed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cnd.model.billing import lives, spent
from cnd.model.catalog import Rate
from cnd.model.events import Event
from cnd.model.plan import Plan, Usage
from cnd.planning import local_rate
from cnd.planning.rate_history import FILE, KEPT, Measured, key, recall, remember

NAME = key("aws", "123456789012", "c7a.large", "auto")


def test_nothing_is_known_before_the_first_run(tmp_path: Path) -> None:
    assert recall(tmp_path, NAME) is None


def test_a_run_is_stored_for_its_account_and_type_only(tmp_path: Path) -> None:
    remember(tmp_path, NAME, Measured(50e6, 10.0, 25.0))
    history = recall(tmp_path, NAME)
    assert history is not None
    assert history.rate.nonces_per_second == 50e6
    assert history.rate.source == "measured in 1 earlier run"
    assert history.boot == 25.0
    for other in (
        key("aws", "210987654321", "c7a.large", "auto"),
        key("aws", "123456789012", "c7a.medium", "auto"),
        key("aws", "123456789012", "c7a.large", "hashlib"),
    ):
        assert recall(tmp_path, other) is None


def test_one_slow_run_does_not_change_the_median(tmp_path: Path) -> None:
    for rate, boot in ((50e6, 20.0), (5e6, 90.0), (52e6, 22.0)):
        remember(tmp_path, NAME, Measured(rate, 10.0, boot))
    history = recall(tmp_path, NAME)
    assert history is not None
    assert history.rate.nonces_per_second == 50e6
    assert history.rate.source == "measured in 3 earlier runs"
    assert history.boot == 22.0


def test_only_the_newest_runs_are_kept(tmp_path: Path) -> None:
    for rate in range(1, 2 * KEPT + 1):
        remember(tmp_path, NAME, Measured(float(rate), 1.0, 20.0))
    history = recall(tmp_path, NAME)
    assert history is not None
    assert history.rate.nonces_per_second == pytest.approx(KEPT + (KEPT + 1) / 2)


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, 10.0), (50e6, 0.001)])
def test_a_run_that_measured_nothing_is_not_stored(
    tmp_path: Path, rate: float, seconds: float
) -> None:
    remember(tmp_path, NAME, Measured(rate, seconds, 20.0))
    assert recall(tmp_path, NAME) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}', '{"x": [{"y": 1}]}'])
def test_a_damaged_file_counts_as_empty(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert recall(tmp_path, NAME) is None
    remember(tmp_path, NAME, Measured(50e6, 10.0, 25.0))
    assert recall(tmp_path, NAME) is not None


def test_a_folder_that_cannot_be_written_loses_the_measurement_only(
    tmp_path: Path,
) -> None:
    remember(tmp_path / "missing", NAME, Measured(50e6, 10.0, 25.0))


def test_this_machine_measures_itself() -> None:
    rate = local_rate.rate(most=1.0)
    assert rate is not None
    assert rate.nonces_per_second > 100  # whatever else it does now
    assert "measured here just now" in rate.source


def progress(*rates: float) -> list[str]:
    """Return what a worker prints, one line after the other."""
    lines = [json.dumps({"event": "progress", "rate": rate}) for rate in rates]
    return ['{"event": "started"}', "noise", *lines, '{"event": "timeout"}']


def test_a_trial_goes_on_until_two_slices_agree() -> None:
    lines = iter(progress(0.4e6, 8e6, 12e6, 11.5e6, 3e6))
    slices = local_rate.until_two_agree(lines)
    assert slices == [0.4e6, 8e6, 12e6, 11.5e6]
    assert '"rate": 3000000.0' in next(lines)  # it was not waited for
    rate = local_rate.judged(slices, load=0.4, cores=2)
    assert rate == Rate(11.75e6, "measured here just now")


def test_a_rate_that_does_not_repeat_itself_is_called_one_and_the_load_is_named() -> (
    None
):
    slices = local_rate.until_two_agree(progress(0.0, 0.0, 8e6, 4e6))
    rate = local_rate.judged(slices, load=5.26, cores=2)
    why = "about: 0 to 8 M, measured here just now at load 5.3 on 2 cores"
    assert rate == Rate(3e6, why)
    assert local_rate.judged([0.0, 0.0], load=9.0, cores=2) is None
    assert local_rate.judged([], load=0.0, cores=1) is None


# --- billing


def event(kind: str, host: str, time: float) -> Event:
    return Event(kind, 0, host, time=time)


def test_an_instance_is_paid_for_from_running_to_its_end() -> None:
    story = [
        event("instance.launched", "i-1", 100.0),
        event("instance.running", "i-1", 110.0),
        event("instance.running", "i-2", 120.0),
        event("instance.lost", "i-2", 150.0),
        event("instance.terminated", "i-1", 300.0),
        event("instance.terminated", "i-2", 300.0),
        event("instance.terminated", "i-3", 300.0),  # never seen to run
    ]
    assert lives(story) == {"i-1": 190.0, "i-2": 30.0}


def test_an_instance_that_was_kept_has_cost_so_far() -> None:
    story = [
        event("instance.running", "i-1", 100.0),
        event("worker.found", "i-1", 130.0),
    ]
    assert lives(story) == {"i-1": 30.0}


def test_a_minute_is_the_least_that_is_billed() -> None:
    plan = Plan(2, 2, 200.0, usd_per_hour=3.6)
    assert plan.usd([Usage(10.0), Usage(100.0)]) == pytest.approx((60 + 100) * 0.001)
    assert Plan(2, 2, 200.0).usd([Usage(10.0)]) is None
    assert Plan(2, 2, 200.0, usd_per_hour=0.0).usd([Usage(10.0)]) == 0.0


def test_each_type_costs_its_own_price() -> None:
    plan = Plan(2, 2, 200.0, usd_per_hour=3.6, others={"c5.large": 7.2, "odd": None})
    assert plan.usd([Usage(100.0, plan.instance_type), Usage(100.0, "c5.large")]) == (
        pytest.approx(100 * 0.001 + 100 * 0.002)
    )
    assert plan.usd([Usage(100.0), Usage(100.0, "odd")]) is None
    assert plan.usd([Usage(100.0), Usage(100.0, "unknown")]) is None


SPOT = Plan(
    2,
    2,
    200.0,
    instance_type="c5.large",
    usd_per_hour=3.6,
    market="spot-or-on-demand",
    spot={"c5.large": {"a": 1.2, "b": 1.8}},
)


def test_a_spot_instance_costs_its_zones_price_and_the_others_the_full_price() -> None:
    def launched(host: str, zone: str, *, spot: bool) -> Event:
        fields = {"type": "c5.large", "zone": zone, "spot": spot}
        return Event("instance.launched", 0, host, fields, time=100.0)

    story = [
        launched("i-1", "a", spot=True),
        launched("i-2", "", spot=True),  # its zone is reported later
        launched("i-3", "a", spot=False),
        *(event("instance.running", f"i-{i}", 100.0) for i in (1, 3)),
        Event("instance.running", 0, "i-2", {"zone": "b"}, time=100.0),
        *(event("instance.terminated", f"i-{i}", 200.0) for i in (1, 2, 3)),
    ]
    assert spent(SPOT, story) == pytest.approx((1.2 + 1.8 + 3.6) * 100 / 3600)


def test_an_unknown_spot_price_is_not_invented() -> None:
    assert SPOT.usd([Usage(100.0, zone="c", spot=True)]) is None
    assert SPOT.usd([Usage(100.0, "c5.xlarge", "a", spot=True)]) is None
    free = replace(SPOT, usd_per_hour=0.0, spot={})
    assert free.usd([Usage(100.0, zone="a", spot=True)]) == 0.0


def test_the_worst_case_of_spot_is_the_full_price() -> None:
    assert SPOT.worst_case_usd == replace(SPOT, market="on-demand").worst_case_usd
