"""Which fleet may be searched on again, with how many instances, and for how long."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.ec2 import Instance
from cnd.errors import UsageError
from cnd.model.plan import Plan
from cnd.provision.prepare import Provision
from cnd.run import reuse
from cnd.run.journal import Journal
from cnd.run.order import RunOrder
from cnd.transport.ssh_connection import Login
from tests.support.clerk import stubbed

FIRST, SECOND, THIRD = (f"20261126-000000-000{i}" for i in range(3))
LAUNCHED = Plan(difficulty=2, instances=3, time_limit=200, keep=True, usd_per_hour=1.0)
WANTED = Plan(difficulty=4, instances=1, time_limit=100, block="another")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A cloud, and a state folder in which FIRST has kept its fleet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ended(FIRST)
    with stubbed() as clerk:
        yield clerk.cloud


def ended(run: str, *, kept: bool = True) -> Journal:
    journal = Journal(run)
    journal.create()
    journal.write_result({"receipt": {"kept": ["i-0"] if kept else []}})
    return journal


def order(cloud: Cloud, plan: Plan = LAUNCHED) -> RunOrder:
    login = Login("ubuntu", Path("key"), "ssh-ed25519 AAAA")
    provision = Provision((), login, "queue", "bucket", Future())
    place = (cloud.name, cloud.region, cloud.account)
    return RunOrder(*place, plan, provision)


def fleet(
    cloud: Cloud, *runs: str, count: int = 3, left: float = 400
) -> list[Instance]:
    """Return instances on which `runs`, the newest first, have searched."""
    now = dt.datetime.now(dt.timezone.utc)
    end = (now + dt.timedelta(seconds=left)).isoformat()
    one = Instance(
        *("i-0", runs[0], 0, cloud.owner, "t3.micro", "running", "127.0.0.1", 22, "z"),
        *(now - dt.timedelta(seconds=220), end),
        runs=runs,
    )
    return [replace(one, id=f"i-{i}", index=i) for i in range(count)]


def left(cloud: Cloud, listed: list[Instance], run: str = FIRST) -> reuse.FleetLeft:
    return reuse.left_by(Journal(run), order(cloud), listed, cloud)


def test_a_fleet_is_found_by_any_run_that_searched_on_it(cloud: Cloud) -> None:
    ended(SECOND)
    listed = fleet(cloud, SECOND, FIRST)
    other = replace(listed[0], id="i-9", run=THIRD, runs=(THIRD,))
    for run in (FIRST, SECOND):
        found = left(cloud, [*listed, other], run)
        assert [each.id for each in found.instances] == ["i-0", "i-1", "i-2"]
        assert found.runs == (SECOND, FIRST)
        assert found.moved == ()


def test_the_place_of_a_lost_instance_is_taken_by_the_next(cloud: Cloud) -> None:
    found = left(cloud, fleet(cloud, FIRST)[1:])
    assert [(i.id, i.index) for i in found.instances] == [("i-1", 0), ("i-2", 1)]
    assert found.moved == found.instances


def test_a_fleet_on_which_a_run_searches_is_refused(cloud: Cloud) -> None:
    with ExitStack() as following:
        journal = Journal(SECOND)
        journal.create()
        following.enter_context(journal.followed())
        with pytest.raises(UsageError, match=f"run {SECOND} still searches"):
            left(cloud, fleet(cloud, SECOND, FIRST))
    with pytest.raises(UsageError, match=f"run {SECOND} has not ended") as refused:
        left(cloud, fleet(cloud, SECOND, FIRST))
    assert f"`fab attach {SECOND}`" in str(refused.value.hint)


def test_a_fleet_that_ends_with_its_run_is_refused(cloud: Cloud) -> None:
    ended(SECOND, kept=False)
    with pytest.raises(UsageError, match="did not keep its fleet"):
        left(cloud, fleet(cloud, SECOND, FIRST))


def test_a_fleet_of_which_nothing_is_left_is_refused(cloud: Cloud) -> None:
    gone = [replace(each, state="terminated") for each in fleet(cloud, FIRST)]
    with pytest.raises(
        UsageError, match=f"nothing of the fleet of run {FIRST} is left"
    ):
        left(cloud, gone)


def test_a_fleet_without_ssh_is_refused(cloud: Cloud) -> None:
    by_s3 = order(cloud, replace(LAUNCHED, bootstrap="user-data"))
    with pytest.raises(UsageError, match="reached without SSH"):
        reuse.left_by(Journal(FIRST), by_s3, fleet(cloud, FIRST), cloud)


def test_the_fleet_of_another_user_is_refused(cloud: Cloud) -> None:
    *mine, last = fleet(cloud, FIRST)
    with pytest.raises(UsageError, match=r"i-2 of run .* belongs to another, not to"):
        left(cloud, [*mine, replace(last, owner="another")])


def test_sessions_without_a_name_are_not_told_apart_by_their_owner_tag(
    cloud: Cloud,
) -> None:
    unnamed = replace(cloud, owner=f"{reuse.UNNAMED}1800000000")
    listed = fleet(replace(cloud, owner=f"{reuse.UNNAMED}1700000000"), FIRST)
    assert len(left(unnamed, listed).instances) == 3


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"cloud": "local"}, "belongs to the cloud local"),
        ({"account": "999"}, "belongs to account 999"),
        ({"region": "moon-1"}, "belongs to region moon-1"),
    ],
)
def test_a_run_of_another_place_is_refused(
    cloud: Cloud, other: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        reuse.check_place(Journal(FIRST), replace(order(cloud), **other), cloud)


def test_a_run_that_was_started_elsewhere_is_refused(cloud: Cloud) -> None:
    with pytest.raises(UsageError, match="was not started on this machine"):
        reuse.order_of(Journal(FIRST))
    (Journal(FIRST).folder / "order.json").write_text("{")
    with pytest.raises(UsageError, match=r"order\.json is damaged"):
        reuse.order_of(Journal(FIRST))


def test_a_fleet_is_claimed_by_one_process_at_a_time(cloud: Cloud) -> None:
    with (
        reuse.claimed(FIRST),
        pytest.raises(UsageError, match=f"on the fleet of run {FIRST} right now"),
        reuse.claimed(FIRST),
    ):
        pass
    with reuse.claimed(FIRST), reuse.claimed(""):
        pass


# --- the plan


def decided(
    cloud: Cloud,
    *,
    n: int | None = None,
    t: float = 100,
    seconds: float = 400,
    extend: bool = False,
) -> tuple[Plan, bool]:
    found = left(cloud, fleet(cloud, FIRST, left=seconds))
    return reuse.decided(found, replace(WANTED, time_limit=t), n, extend=extend)


def test_the_plan_is_that_of_the_launch_with_another_search(cloud: Cloud) -> None:
    plan, extend = decided(cloud)
    assert (plan.difficulty, plan.block, plan.time_limit) == (4, "another", 100)
    assert (plan.instances, plan.fleet_size, plan.fleet_of) == (3, 3, FIRST)
    assert (plan.keep, extend) == (False, False)
    assert plan.lifetime == plan.holds == pytest.approx(400, abs=5)
    # What is left of the 300 s after the launch, 220 s ago.
    assert plan.boot_allowance == pytest.approx(80, abs=5)


def test_fewer_instances_may_search_than_the_fleet_has(cloud: Cloud) -> None:
    plan, _ = decided(cloud, n=2)
    assert (plan.instances, plan.fleet_size) == (2, 3)
    with pytest.raises(UsageError, match=r"--n 4: the fleet of run .* has 3 instances"):
        decided(cloud, n=4)


def test_the_whole_rest_of_the_fleet_is_the_worst_case(cloud: Cloud) -> None:
    plan, _ = decided(cloud, n=1)
    assert plan.worst_case_usd == pytest.approx(3 * 400 / 3600, rel=0.02)
    longer, _ = decided(cloud, n=1, t=1000, extend=True)
    assert longer.worst_case_usd == pytest.approx(3 * 1420 / 3600)


def test_timers_that_end_the_fleet_before_t_are_refused_or_set_anew(
    cloud: Cloud,
) -> None:
    assert decided(cloud, t=270)[1] is False
    with pytest.raises(UsageError, match=r"end it in 6\.7 min: too early") as refused:
        decided(cloud, t=290)
    assert "--t 27" in str(refused.value.hint)
    plan, extend = decided(cloud, t=290, extend=True)
    assert (plan.holds, extend) == (300 + 290 + 120, True)


def test_timers_that_hold_are_not_set_anew(cloud: Cloud) -> None:
    plan, extend = decided(cloud, extend=True)
    assert extend is False
    assert plan.holds == pytest.approx(400, abs=5)


def test_an_unknown_deadline_may_come_at_any_moment(cloud: Cloud) -> None:
    *known, last = fleet(cloud, FIRST)
    found = left(cloud, [*known, replace(last, deadline="soon")])
    with pytest.raises(UsageError, match="end it in 0 ms"):
        reuse.decided(found, WANTED, None, extend=False)


def test_a_tag_names_the_newest_runs_and_the_first() -> None:
    runs: tuple[str, ...] = ()
    for i in range(30):
        runs = ec2.shared_by(f"20261126-000000-{i:04x}", runs)
        assert runs[0].endswith(f"{i:04x}")
        assert runs[-1] == "20261126-000000-0000"
        assert len(" ".join(runs)) <= 256
    assert len(runs) == ec2.MOST_RUNS
