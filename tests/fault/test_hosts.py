"""Whatever becomes of a host, no nonce is lost, none is believed unseen."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from cnd.local import Endpoint, lay_fault
from cnd.local.host import clock
from tests.fault.truth import Victim, struck
from tests.support.faults import befall, events_of, kill
from tests.support.processes import ended
from tests.support.runs import ENDLESS, LONG_NONCES, LONG_SPACE, SLOWLY, SPACE, Run
from tests.support.terminal import RATE
from tests.support.waiting import SOON, eventually


@pytest.mark.parametrize(
    ("kind", "more"), [("boots-late", {"seconds": 3}), ("no-key", {"seconds": 3})]
)
def test_a_host_that_is_late_is_waited_for(
    terminal: Victim, cloud: Endpoint, kind: str, more: dict[str, object]
) -> None:
    befall(cloud, 1, kind, **more)
    result = Run(terminal, *SPACE).exhausted()
    assert result["repeated"] == 0


@pytest.mark.parametrize("kind", ["never-boots", "mute"])
def test_a_host_that_never_answers_does_not_delay_the_answer(
    terminal: Victim, cloud: Endpoint, kind: str
) -> None:
    befall(cloud, 1, kind)
    result = terminal.json("start", "--d", "2", "--n", "2")
    assert (result["outcome"], result["left_running"]) == ("found", 0)
    assert result["terminated"] == 2
    assert result["seconds"]["total"] < SOON  # and not the boot allowance of 300 s


def lose_sshd(cloud: Endpoint, host: str) -> None:
    befall(cloud, host, "no-sshd")


def freeze(cloud: Endpoint, host: str) -> None:
    befall(cloud, host, "freeze")


def fill_the_disk(cloud: Endpoint, host: str) -> None:
    befall(cloud, host, "disk-full")


def interrupt(cloud: Endpoint, host: str) -> None:
    befall(cloud, host, "interrupt", seconds=0.2)


@pytest.mark.parametrize(
    "befall",
    [kill, lose_sshd, freeze, fill_the_disk, interrupt],
    ids=lambda f: f.__name__,
)
def test_the_class_of_a_lost_host_goes_on_elsewhere(
    terminal: Victim, cloud: Endpoint, befall: Callable[[Endpoint, str], None]
) -> None:
    run = Run(terminal, *LONG_SPACE)
    victim = run.searching(3)[2]
    befall(cloud, victim)
    lost = time.time()
    run.exhausted(LONG_NONCES)
    (handed,) = run.told("class.handed_over")
    assert handed["host"] != victim
    noticed = min(
        e["time"] for kind in NOTICES for e in run.told(kind) if by(victim, e)
    )
    (started,) = [e for e in run.told("worker.started") if by(handed["host"], e)][1:]
    silent, idle = noticed - lost, started["time"] - noticed
    print(
        f"{befall.__name__}: noticed after {silent:.1f} s (at most {SILENT:g}, here "
        f"{BUSY:g} more), searched again after {idle:.1f} s (at most {IDLE:g})"
    )
    assert silent <= SILENT + BUSY
    assert idle <= IDLE + BUSY


# What tells that a host is lost, and how soon.
NOTICES = ("host.reconnecting", "host.failed", "instance.lost", "worker.failed")
SILENT, IDLE = 5.0, 3.0  # seconds until it is noticed; until the class goes on
BUSY = 15.0  # seconds more, on a machine that does ten other things


def by(host: str, event: dict[str, Any]) -> bool:
    return bool(event.get("host") == host)


def test_a_lost_host_is_replaced_where_that_is_wanted(
    terminal: Victim, cloud: Endpoint
) -> None:
    run = Run(terminal, *ENDLESS, "--n", "2", "--replace")
    kill(cloud, run.searching(2)[0])
    eventually(lambda: run.told("class.handed_over"))
    (handed,) = run.told("class.handed_over")
    new = run.told("instance.launched")[-1]
    assert (new["index"], new["host"]) == (2, handed["host"])
    run.searching(3)
    assert run.interrupted()["terminated"] == 3
    assert (run.folder / "logs" / "Instance2.log").exists()


def test_what_was_replaced_is_not_replaced_again_after_a_take_over(
    terminal: Victim, cloud: Endpoint
) -> None:
    run = Run(terminal, *ENDLESS, "--n", "2", "--replace")
    kill(cloud, run.searching(2)[0])
    eventually(lambda: run.told("class.handed_over"))
    terminal.hit(run.process, signal.SIGKILL)
    heard = len(run.told("worker.progress"))
    run.process = terminal.spawn("attach", run.folder.name, "--json")
    run.has_told("worker.progress", heard + 5)
    run.interrupted()
    assert [e["index"] for e in run.told("instance.launched")] == [0, 1, 2]


def test_an_attach_awaits_the_replacement_that_was_requested_already(
    terminal: Victim, cloud: Endpoint
) -> None:
    """Its request is on its way, and its answer was never read."""
    run = Run(terminal, *ENDLESS, "--n", "2", "--replace")
    victim = run.searching(2)[0]
    lay_fault(cloud, {"action": "RunInstances", "delay": 6})
    kill(cloud, victim)
    eventually(lambda: struck(cloud) == 2)
    there = time.time() + 7
    terminal.hit(run.process, signal.SIGKILL)
    run.process = terminal.spawn("attach", run.folder.name, "--json")
    eventually(lambda: run.told("class.handed_over"))
    eventually(lambda: time.time() > there)
    run.interrupted()
    ours = [i for i in terminal.instances() if i["run"] == run.folder.name]
    launched = run.told("instance.launched")
    assert [e["index"] for e in launched] == [0, 1, 2]
    assert {i["id"] for i in ours} == {e["host"] for e in launched}
    assert run.told("class.handed_over")[0]["host"] == launched[-1]["host"]


def test_a_replacement_is_waited_for_however_late_in_the_run_it_boots(
    terminal: Victim, cloud: Endpoint
) -> None:
    run = Run(terminal, *ENDLESS, "--n", "1", "--boot", "16", "--replace")
    victim = run.searching(1)[0]
    served = run.told("instance.running")[0]["time"]
    eventually(lambda: time.time() > served + 16)  # its boot allowance
    kill(cloud, victim)
    eventually(lambda: run.told("class.handed_over"))
    eventually(lambda: len(run.searching(2)) == 2)
    run.interrupted()
    assert len(run.told("instance.launched")) == 2


def test_a_host_that_returns_leaves_its_class_to_its_new_host(
    terminal: Victim, cloud: Endpoint
) -> None:
    run = Run(terminal, *ENDLESS, "--n", "2")
    victim = run.searching(2)[0]
    freeze(cloud, victim)
    eventually(lambda: run.told("class.handed_over"))
    befall(cloud, victim, "thaw")
    eventually(lambda: run.told("host.returned"))
    eventually(lambda: run.told("worker.stopped"))
    (stopped,) = run.told("worker.stopped")
    assert stopped["host"] == victim
    run.interrupted()


def test_a_spot_notice_is_reported_and_a_replacement_bought_before_the_end(
    terminal: Victim, cloud: Endpoint
) -> None:
    words = ("start", "--d", "30", "--n", "2", "--t", "120", "--json", "--spot")
    run = Run(terminal, *words, "--replace")
    victim = run.searching(2)[0]
    # AWS gives two minutes.  A watchdog looks every 5 s, from 2 s after its worker on.
    befall(cloud, victim, "interrupt", seconds=24)
    eventually(lambda: run.told("class.handed_over"))
    (notice,) = run.told("worker.notice")
    assert notice["host"] == victim
    launched = run.told("instance.launched")
    assert len(launched) == 3
    lost = run.told("instance.lost") + run.told("host.failed")
    assert launched[-1]["time"] < min(event["time"] for event in lost)

    (handed,) = run.told("class.handed_over")
    assert handed["host"] == run.told("instance.launched")[-1]["host"]
    terminal.hit(run.process)
    code, out, _ = ended(run.process)
    assert (code, json.loads(out)["left_running"]) == (130, 0)


FOR_CUTS = 64 * RATE  # sixteen seconds' work of four hosts


def test_connections_cut_every_two_seconds_cost_no_nonce(
    terminal: Victim, cloud: Endpoint
) -> None:
    nonces = str(FOR_CUTS)
    words = ("start", "--d", "30", "--nonces", nonces, "--n", "4", *SLOWLY)
    run = Run(terminal, *words)
    hosts = run.searching(4)
    for _ in range(3):
        before = len(run.told("host.reconnecting"))
        for host in hosts:
            befall(cloud, host, "cut")
        run.has_told("host.reconnecting", before + len(hosts))
        time.sleep(2)
    result = run.exhausted(FOR_CUTS)
    assert result["repeated"] == 0
    assert run.told("class.handed_over") == []
    assert len(run.told("host.reconnecting")) >= 8


@pytest.mark.parametrize(
    "lie",
    [
        {"event": "found", "nonce": 12345},
        {"event": "found", "nonce": "116", "hash": "00"},
        {"event": "found"},
        {"event": "exhausted", "cursor": LONG_NONCES - 3, "tested": 17},
    ],
    ids=["not golden", "no number", "no nonce", "not exhausted"],
)
def test_a_liar_is_dropped_and_its_class_searched_elsewhere(
    terminal: Victim, cloud: Endpoint, lie: dict[str, object]
) -> None:
    run = Run(terminal, *LONG_SPACE)
    liar = run.searching(3)[0]
    terminal.faults += 1
    with events_of(cloud, liar).open("a") as file:
        file.write(json.dumps(lie) + "\n")
    run.exhausted(LONG_NONCES)
    assert run.told("class.handed_over")[0]["host"] != liar
    assert run.told("worker.refuted")[0]["host"] == liar


def test_garbage_on_a_workers_output_is_kept_and_never_fatal(
    terminal: Victim, cloud: Endpoint
) -> None:
    run = Run(terminal, *LONG_SPACE)
    terminal.faults += 1
    with events_of(cloud, run.searching(3)[0]).open("ab") as file:
        file.write(b"\xff\x00 garbage\n[1, 2]\nnull\n" + b"x" * 100_000 + b"\n")
        file.write(b'{"event": "progress", "cursor": "much", "tested": -1}\n')
        file.write(b'{"event": "no such thing", "time": {}}\n')
    run.exhausted(LONG_NONCES)
    noise = run.told("worker.noise")
    assert len([event for event in noise if "dropped" not in event]) == 5
    assert [event for event in noise if "dropped" in event]  # of the line of 100 KB


@pytest.mark.skipif(not clock.library(), reason="libfaketime is not here")
def test_hosts_whose_clocks_are_hours_apart_work_together(
    terminal: Victim, cloud: Endpoint
) -> None:
    for place, seconds in enumerate((3600, -3600)):
        befall(cloud, place, "wrong-clock", seconds=seconds)
    run = Run(terminal, *SPACE)
    result = run.exhausted()
    times = [event["time"] for event in run.told("worker.started")]
    assert max(times) - min(times) > 7000
    assert result["repeated"] == 0
    assert 0 <= result["seconds"]["search"] < 120


def test_a_clock_that_jumps_while_a_host_searches_changes_nothing(
    terminal: Victim, cloud: Endpoint
) -> None:
    """All that a host's clock can reach: what its worker says, and the heartbeat."""
    run = Run(terminal, *LONG_SPACE)
    host = run.searching(3)[0]
    path = events_of(cloud, host)
    wrong = time.time() + 3600
    terminal.faults += 1
    os.utime(path.parent.parent / "heard", (wrong, wrong))
    with path.open("a") as file:
        file.write(json.dumps({"event": "progress", "time": wrong}) + "\n")
        file.write(json.dumps({"event": "progress", "time": wrong - 7200}) + "\n")
    result = run.exhausted(LONG_NONCES)
    assert result["repeated"] == 0
    assert 0 <= result["seconds"]["search"] < 120
