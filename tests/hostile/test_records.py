"""What lies in the state folder may be damaged: a fleet is ended all the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cnd.errors import UsageError
from cnd.planning import rate_history
from cnd.run.journal import LOCK, Journal
from tests.fault.kills import killed
from tests.fault.truth import Victim
from tests.support.runs import SPACE
from tests.support.terminal import Terminal, clean_environment
from tests.support.users import START, nameless, refused


def flip(path: Path) -> None:
    """Put in what no text has, at the end of a line and instead of one."""
    lines = path.read_bytes().splitlines()
    path.write_bytes(
        b"\n".join([lines[0], b"\xff\xfe", *lines[1:], b'{"kind": 1}', b""])
    )


def empty(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.touch()


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def full(path: Path) -> None:
    """Have a disk without room for it."""
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/full")


def wrong(path: Path) -> None:
    told = {"cloud": ["local"], "plan": {"instances": "2"}, "outcome": 3, "url": None}
    path.write_text(json.dumps(told))


DAMAGE: list[dict[str, Callable[[Path], None]]] = [
    {"events.jsonl": flip, "order.json": empty, "lock": full},
    {"events.jsonl": folder, "order.json": wrong, "lock": folder},
    {"events.jsonl": full, "order.json": pipe, "lock": pipe},
]


@pytest.mark.parametrize("damage", DAMAGE, ids=["bytes", "folders", "full"])
def test_scram_ends_a_fleet_whose_records_are_damaged(
    terminal: Victim, damage: dict[str, Callable[[Path], None]]
) -> None:
    run = killed(terminal, *SPACE, when="instance.launched", of=3)
    for name, put in damage.items():
        put(run / name)
    try:
        see_ended(terminal, run)
    finally:
        shutil.rmtree(run)  # of what is left there nothing can be true


def see_ended(terminal: Victim, run: Path) -> None:
    """End a fleet whose records are damaged, and see each command say what it is to."""
    status = terminal.json("status")
    assert len(status["instances"]) == 3
    (stands,) = (r["stands"] for r in status["runs"] if r["run"] == run.name)
    assert "events.jsonl" in stands
    assert "passed over" in stands
    told = refused(terminal.run("attach", run.name))
    assert f"run {run.name} cannot be taken over: order.json " in told
    done = terminal.run("scram")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("terminated i-") == 3
    assert terminal.live() == []
    assert terminal.run("runs").returncode == 0


def test_old_runs_that_are_damaged_keep_no_new_one_from_its_end(
    terminal: Terminal, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    result: dict[str, Callable[[Path], None]] = {"result.json": wrong}
    for number, damage in enumerate([*DAMAGE, result]):
        run = state / f"cnd/runs/20260101-00000{number}-abcd"
        (run / "logs").mkdir(parents=True)
        for name, put in damage.items():
            (run / name).write_text('{"kind": "run.ended", "time": 1.0}\n')
            put(run / name)
    terminal.environment = clean_environment(state)
    try:
        assert terminal.json(*START)["outcome"] == "found"
        for command in ("status", "scram", "runs"):
            done = terminal.run(command)
            assert done.returncode == 0, done.stderr
        assert "result.json has no such outcome: passed over" in done.stderr
    finally:
        terminal.run("local", "down")


def odd(path: Path) -> None:
    """Have rates of which one is no number, and one none that was measured."""
    told = [{"nonces_per_second": "fast", "seconds": 2.0, "boot": 1.0}]
    none = [{"nonces_per_second": -1.0, "seconds": 2.0, "boot": 1.0}]
    path.write_text(json.dumps({"local//t3.micro/auto": told, "a": none}))


def deep(path: Path) -> None:
    path.write_text(100_000 * "[")


@pytest.mark.parametrize("put", [pipe, flip, odd, deep, full])
def test_rates_that_are_damaged_teach_nothing(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    terminal = Terminal(tmp_path, clean_environment(tmp_path), tmp_path)
    (tmp_path / "cnd").mkdir()
    path = tmp_path / "cnd" / rate_history.FILE
    path.write_text("{}")
    put(path)
    done = terminal.run("plan", "--d", "3", "--cloud", "local")
    assert done.returncode == 0, done.stderr
    rate_history.remember(
        tmp_path / "cnd", "name", rate_history.Measured(1e6, 2.0, 1.0)
    )
    past = rate_history.recall(tmp_path / "cnd", "name")
    assert past is not None
    assert past.rate.nonces_per_second == 1e6


def test_a_state_folder_that_cannot_be_written_to_keeps_no_fleet_up(
    terminal: Victim,
) -> None:
    killed(terminal, *SPACE, when="instance.launched", of=3)
    done = nameless(terminal, "scram")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("terminated i-") == 3
    assert terminal.live() == []


@pytest.mark.parametrize("put", [empty, wrong, folder, pipe])
def test_a_cloud_whose_record_is_damaged_is_not_taken_for_dead(
    terminal: Victim, put: Callable[[Path], None]
) -> None:
    endpoint = terminal.state / "cnd/local/endpoint.json"
    terminal.exports()
    kept = endpoint.read_text()
    put(endpoint)
    try:
        for command in ("status", "scram", "start"):
            words = START if command == "start" else (command,)
            told = refused(terminal.run(*words), 3)
            assert "endpoint.json is damaged" in told
    finally:
        shutil.rmtree(endpoint) if endpoint.is_dir() else endpoint.unlink()
        endpoint.write_text(kept)


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    journal = Journal("20261128-040000-abcd", tmp_path / "run")
    journal.create()
    (journal.folder / LOCK).symlink_to(precious)
    with pytest.raises(UsageError, match="symbolic links"), journal.followed():
        pytest.fail("it is followed")
    assert precious.read_text() == "precious"


def test_a_log_that_is_no_file_is_named_and_passed_over(
    terminal: Terminal, tmp_path: Path
) -> None:
    run = tmp_path / "cnd/runs/20260101-000000-abcd"
    (run / "logs").mkdir(parents=True)
    event = {"kind": "instance.launched", "time": 1.0, "index": 0, "host": "i-0"}
    (run / "events.jsonl").write_text(json.dumps(event) + "\n")
    pipe(run / "logs/Instance0.log")
    terminal.environment = clean_environment(tmp_path)
    told = refused(terminal.run("logs", "20260101-000000-abcd"))
    assert "Instance0.log cannot be read: Not a regular file" in told
