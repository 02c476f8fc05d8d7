"""Searches on a fleet that is up: one after the other, and ended in order."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cnd.local import summary
from cnd.model.plan import BOOT_ALLOWANCE
from cnd.provision import user_data
from cnd.transport import keys
from cnd.transport.ssh import Host
from cnd.transport.ssh_connection import Login
from tests.support.runs import SLOWLY, Run, told
from tests.support.terminal import ALIVE, Terminal
from tests.support.waiting import eventually


def kept(
    terminal: Terminal, *words: str, d: int = 2, n: int | None = 2, on: str = ""
) -> dict[str, Any]:
    """Return the result of a run that leaves its fleet up: a new one, or that `on`."""
    fleet = ("--on", on) if on else ("--n", str(n))
    return terminal.json("start", "--d", str(d), "--keep", *fleet, *words)


def order(terminal: Terminal, run: str) -> dict[str, Any]:
    path = terminal.state / "cnd" / "runs" / run / "order.json"
    return dict(json.loads(path.read_text()))


def launches(terminal: Terminal) -> int:
    made = summary(terminal.cloud())["calls"]
    return int(made.get("ec2:RunInstances", 0))


def tags(terminal: Terminal, run: str) -> list[dict[str, str]]:
    """Return the tags of the instances of a run."""
    of_run = {"Name": "tag:cnd:run", "Values": [run]}
    alive = {"Name": "instance-state-name", "Values": list(ALIVE)}
    found = terminal.client("ec2").describe_instances(Filters=[of_run, alive])
    return [
        {tag["Key"]: tag["Value"] for tag in raw["Tags"]}
        for reservation in found["Reservations"]
        for raw in reservation["Instances"]
    ]


@contextmanager
def logged_in(terminal: Terminal, run: str) -> Iterator[list[Host]]:
    """Log in to the instances that carry the tag of `run`."""
    login = order(terminal, run)["provision"]["login"]
    key = keys.user_key(terminal.state / "cnd").path
    of = Login(login["user"], key, login["host_key"])
    hosts = [Host(i["id"], i["address"], of) for i in terminal.status()]
    for host in hosts:
        host.connect(lambda: time.monotonic() + 60)
    yield hosts
    for host in hosts:
        host.close()


def timers(host: Host) -> list[float]:
    """Return the seconds that are left of each lifetime timer of a host."""
    lines = host.run("systemctl list-timers").splitlines()
    return [float(line.partition("s left")[0]) for line in lines if "left" in line]


def seconds_to(moment: str) -> float:
    ends = dt.datetime.fromisoformat(moment)
    return (ends - dt.datetime.now(dt.timezone.utc)).total_seconds()


def test_a_search_on_a_fleet_that_is_up_launches_nothing_and_is_a_run_of_its_own(
    terminal: Terminal,
) -> None:
    # All hosts search in it: a find would spare some of them the start.
    space = ("--d", "30", "--nonces", "3000", "--n", "2", "--keep")
    first = terminal.json("start", *space, status=11)
    before = launches(terminal)

    again = kept(terminal, "--block", "another", d=3, on=first["run"])
    assert (again["outcome"], again["difficulty"]) == ("found", 3)
    assert launches(terminal) == before
    assert [i["id"] for i in again["fleet"]] == [i["id"] for i in first["fleet"]]
    assert (again["terminated"], again["left_running"]) == (0, 2)
    runs = terminal.state / "cnd" / "runs"
    folder = runs / again["run"]
    assert json.loads((folder / "result.json").read_text()) == again
    logs = sorted(path.name for path in (folder / "logs").iterdir())
    assert logs == [f"Instance{i}.log" for i in range(2)]
    assert told(folder, "instance.requested") == []
    (reused,) = told(folder, "fleet.reused")
    assert (reused["of"], reused["instances"], reused["keep"]) == (
        first["run"],
        2,
        True,
    )
    assert {i["run"] for i in terminal.status()} == {again["run"]}
    for each in tags(terminal, again["run"]):
        assert each["cnd:runs"] == f"{again['run']} {first['run']}"

    # The programs were not sent again: they are the same files.
    hosts = terminal.cloud().folder / "hosts"
    (place,) = (hosts / again["instance_id"]).rglob(f"cnd-{first['run']}")
    for name in ("pow.py", "watchdog.py"):
        old, new = place / name, place.parent / f"cnd-{again['run']}" / name
        assert old.stat().st_ino == new.stat().st_ino

    # By the newest run as well, with fewer; without --keep it ends the whole fleet.
    last = terminal.json("start", "--d", "2", "--n", "1", "--on", again["run"])
    assert (last["instances"], len(last["fleet"])) == (1, 2)
    assert (last["terminated"], last["left_running"]) == (2, 0)
    assert launches(terminal) == before
    assert terminal.live() == []


@pytest.mark.paced
def test_scram_of_an_earlier_run_ends_its_fleet_and_no_other(
    terminal: Terminal,
) -> None:
    runs = [kept(terminal)["run"]]
    for _ in range(2):
        runs.append(kept(terminal, on=runs[-1])["run"])
    other = kept(terminal, n=1)

    # A resumed run would have a fleet of its own, with the timers of a new one.
    assert order(terminal, runs[-1])["plan"]["boot_allowance"] < BOOT_ALLOWANCE
    ended = ("start", "--d", "30", "--t", "1", "--on", runs[-1], "--keep")
    runs.append(terminal.json(*ended, status=10)["run"])
    going_on = ("--resume", runs[-1], "--t", "3000")
    planned = terminal.ask("plan", *going_on)["plan"]
    new = {"fleet_of": "", "fleet_size": 0, "holds": 0.0, "time_limit": 3000.0}
    assert planned.items() >= (new | {"boot_allowance": BOOT_ALLOWANCE}).items()

    done = terminal.run("scram", "--run", runs[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("terminated i-") == 2
    assert [i["run"] for i in terminal.live()] == [other["run"]]
    terminal.scram()


@pytest.mark.paced
def test_scram_of_the_first_run_stops_the_search_of_another_on_its_fleet(
    terminal: Terminal,
) -> None:
    first = kept(terminal)
    run = Run(terminal, "start", "--on", first["run"], "--d", "30", *SLOWLY)
    run.searching(2)
    refused = terminal.call("start", "--d", "2", "--on", first["run"])
    assert refused.returncode == 2
    assert f"a run searches on the fleet of run {first['run']}" in refused.stderr
    assert terminal.run("scram", "--run", first["run"]).returncode == 0
    code, result = run.result()
    assert (code, result["outcome"], result["left_running"]) == (12, "stopped", 0)
    assert terminal.live() == []


REFUSED = [
    (("--on", "nonsense"), "no run on this disk is called 'nonsense'"),
    (("--on", "RUN", "--n", "3"), "--n 3: the fleet of run RUN has 2 instances"),
    (("--on", "RUN", "--n", "0"), "--n must be 1 to 1000, not 0"),
    (("--on", "RUN", "--t", "900"), "too early for 900 s of search"),
    (("--on", "RUN", "--region", "eu-west-1"), "run RUN belongs to region us-east-1"),
    (("--on", "RUN", "--spot"), "--spot is decided with a launch"),
    (("--on", "RUN", "--instance-type", "c5.large"), "--instance-type is decided"),
    (("--extend",), "--extend is for the timers of a fleet that is up"),
    (("--on", "OLD"), "nothing of the fleet of run OLD is left"),
]


def test_what_cannot_be_searched_on_is_refused_in_one_line(terminal: Terminal) -> None:
    old, first = terminal.json("start", "--d", "2"), kept(terminal)
    eventually(lambda: not terminal.instances(states=["pending"]))  # one may still boot
    before, live = terminal.runs(), terminal.live()

    def check(words: tuple[str, ...], reason: str) -> None:
        names = {"RUN": first["run"], "OLD": old["run"]}
        asked = [names.get(word, word) for word in words]
        for name, run in names.items():
            reason = reason.replace(name, run)
        done = terminal.call("start", "--d", "2", *asked)
        assert done.returncode == 2, done.stderr
        lines = [x for x in done.stderr.splitlines() if not x.startswith("cloud: ")]
        assert lines[0].startswith("cnd: ") and len(lines) <= 2
        assert reason in lines[0]
        assert (terminal.runs(), terminal.live()) == (before, live)

    for words, reason in REFUSED:
        check(words, reason)
    ids = [each["id"] for each in first["fleet"]]
    foreign = [{"Key": "cnd:owner", "Value": "another"}]
    terminal.client("ec2").create_tags(Resources=ids[1:2], Tags=foreign)
    check(("--on", "RUN"), f"{ids[1]} of run RUN belongs to another, not to")
    (terminal.runs()[-1] / "order.json").unlink()
    check(("--on", "RUN"), "run RUN was not started on this machine")
    terminal.scram()


def test_a_host_that_shows_another_key_is_refused_and_its_fleet_left_as_it_was(
    terminal: Terminal,
) -> None:
    first = kept(terminal)
    path = terminal.state / "cnd" / "runs" / first["run"] / "order.json"
    changed = order(terminal, first["run"])
    changed["provision"]["login"]["host_key"] = keys.generate().public
    path.write_text(json.dumps(changed))
    before = tags(terminal, first["run"])

    done = terminal.run("start", "--d", "2", "--on", first["run"])
    assert done.returncode == 2, done.stderr
    assert "shows a host key that is not this run's" in done.stderr
    assert "Traceback" not in done.stderr
    assert tags(terminal, first["run"]) == before
    queues = terminal.client("sqs").list_queues().get("QueueUrls", [])
    assert not [url for url in queues if terminal.runs()[-1].name in url]
    terminal.scram()


def test_five_searches_in_a_row_then_the_timers_end_the_fleet(
    terminal: Terminal,
) -> None:
    last = kept(terminal, "--boot", "60", "--t", "5")["run"]
    promised = {each["cnd:deadline"] for each in tags(terminal, last)}
    for difficulty in (1, 2, 1, 3):
        last = kept(terminal, "--t", "5", d=difficulty, on=last)["run"]
    assert {each["cnd:deadline"] for each in tags(terminal, last)} == promised

    longer = kept(terminal, "--t", "300", "--extend", on=last)["run"]
    (deadline,) = {each["cnd:deadline"] for each in tags(terminal, longer)}
    assert deadline > max(promised)
    with logged_in(terminal, longer) as hosts:
        for host in hosts:
            before = seconds_to(deadline)
            (armed,) = timers(host)
            assert seconds_to(deadline) - 5 < armed < before + 2
        # The same timers, with what is left of them cut short.
        for host in hosts:
            host.run(user_data.rearming(1, "cut-short"))
        eventually(lambda: terminal.live() == [])


@pytest.mark.slow
def test_after_five_searches_the_timers_of_the_launch_end_the_fleet(
    terminal: Terminal,
) -> None:
    last = kept(terminal, "--boot", "40", "--t", "5")["run"]
    for _ in range(4):
        last = kept(terminal, "--t", "1", on=last)["run"]
    deadlines = [each["cnd:deadline"] for each in tags(terminal, last)]
    ends = max(map(dt.datetime.fromisoformat, deadlines))
    left = (ends - dt.datetime.now(dt.timezone.utc)).total_seconds()
    assert 60 < left < 165
    eventually(lambda: terminal.live() == [], within=left + 15, every=0.5)
