"""Whole runs of each kind, and what must be true of each, whatever the weather.

What is true is read where no weather is: from the cloud's own status, from the trees of
its hosts on this disk, and from the run's journal.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cnd import local
from tests.conftest import a_state
from tests.fault.truth import objections
from tests.support.runs import NONCES, Run, told
from tests.support.terminal import GONE, Terminal, paced_environment
from tests.support.waiting import eventually

FIRST_SEED = int(os.environ.get("CND_WEATHER_SEED", "1"))
# Late answers and slow shutdowns cost a minute each time.
QUICK_HABITS = ",-shutdown,-timeout"
SIZE = 4
FLEET = ("--n", str(SIZE), "--json")
QUICK = ("start", "--t", "60", "--d", "3", *FLEET)
SPACE = str(NONCES // 2)  # two or three seconds' work
ENOUGH = "500"  # seconds, on a machine on which many runs share two cores
ENDLESS = (
    *("start", "--d", "30", "--nonces", SPACE),
    *("--t", ENOUGH, *FLEET),
)
PATIENCE = 600.0  # seconds that any command may take: a shutdown may take six minutes
GONE_WITHIN = 10.0  # seconds until the trees of ended hosts are removed


@dataclass(frozen=True)
class Told:
    """What a run has said at its end, and how long all its commands took."""

    folder: Path | None  # of the run
    result: Mapping[str, Any]
    seconds: float
    trouble: tuple[str, ...]  # what is wrong with what its commands answered


Way = Callable[[Terminal], Told]


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _asked(
    user: Terminal, *words: str, status: int = 0, outcome: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Run a command; return its object, and how it differs from what is expected."""
    done = user.run(*words, timeout=PATIENCE)
    result, trouble = _json(done.stdout), []
    if done.returncode != status:
        last = done.stderr.strip().splitlines()[-3:]
        trouble.append(f"{words[0]}: status {done.returncode}: {' / '.join(last)}")
    if outcome and result.get("outcome") != outcome:
        trouble.append(f"{words[0]}: {result.get('outcome')}, not {outcome}")
    if "Traceback" in done.stderr:
        trouble.append(f"{words[0]}: a traceback")
    return result, trouble


def _whole(*more: str) -> Way:
    """Return a run that finds a nonce at once, with these options."""

    def way(user: Terminal) -> Told:
        began = time.monotonic()
        result, trouble = _asked(user, *QUICK, *more, outcome="found")
        return _told(user, result, began, trouble)

    return way


def _told(
    user: Terminal, result: Mapping[str, Any], began: float, trouble: list[str]
) -> Told:
    # Beside the runs there is a lock.
    folder = next((p for p in reversed(user.runs()) if p.is_dir()), None)
    if folder and not result and (folder / "result.json").exists():
        result = _json((folder / "result.json").read_text())
    return Told(folder, result, time.monotonic() - began, tuple(trouble))


def _killed(user: Terminal) -> Run:
    """Kill the orchestrator of a run once a worker searches."""
    run = Run(user, *ENDLESS)

    def searches() -> bool:
        assert run.process.poll() is None, run.process.communicate()
        return bool(run.told("worker.started"))

    eventually(searches, within=PATIENCE, every=0.1)
    run.process.send_signal(signal.SIGKILL)
    run.process.communicate(timeout=30)
    return run


def scram(user: Terminal) -> Told:
    """Kill an orchestrator, and end its fleet from elsewhere."""
    run = _killed(user)
    began = time.monotonic()
    done = user.run("scram", timeout=PATIENCE)
    trouble = []
    if done.returncode or "0 instances running" not in done.stdout:
        trouble.append(f"scram: status {done.returncode}: {done.stderr[-300:]}")
    return Told(run.folder, {}, time.monotonic() - began, tuple(trouble))


def attach(user: Terminal) -> Told:
    """Kill an orchestrator, and let another one finish its run."""
    run = _killed(user)
    began = time.monotonic()
    words = ("attach", run.folder.name, "--json")
    result, trouble = _asked(user, *words, status=11, outcome="exhausted")
    return _told(user, result, began, trouble)


def clean(user: Terminal) -> Told:
    """Run, and remove all that is left in the account."""
    told_of_run = _whole()(user)
    answer, trouble = _asked(user, "clean", "--yes", "--json")
    if answer.get("left") != {}:
        trouble.append(f"clean: left {answer.get('left')}")
    problems = (*told_of_run.trouble, *trouble)
    return Told(told_of_run.folder, told_of_run.result, told_of_run.seconds, problems)


WAYS: Mapping[str, Way] = {
    "start": _whole(),
    "scram": scram,
    "attach": attach,
    "spot": _whole("--spot"),
    "hold": _whole("--hold"),
    "user-data": _whole("--bootstrap", "user-data"),
    "clean": clean,
}


@contextmanager
def a_user(factory: pytest.TempPathFactory, weather: str) -> Iterator[Terminal]:
    """A user with a cloud of their own in this weather, which ends with the user."""
    with a_state(factory, "weather") as folder:
        # The weather lists every instance after five seconds.
        patience = {"CND_LOCAL_LISTED_SECONDS": "6"}
        conditions = {"CND_LOCAL_WEATHER": weather, **patience}
        environment = paced_environment(folder) | conditions
        place = folder / "here"
        place.mkdir()
        user = Terminal(folder, environment, place)
        user.cloud()  # its start is no part of a run's time
        yield user


def log_of(user: Terminal) -> str:
    """Return the end of a cloud's own log."""
    path: Path = user.state / "cnd" / "local" / "cloud.log"
    return path.read_text()[-2000:] if path.exists() else ""


# --- what is true


def hosts(user: Terminal) -> set[str]:
    """Return the ids of the instances whose hosts are there."""
    folder = user.state / "cnd" / "local" / "hosts"
    return {path.name for path in folder.glob("i-*")} if folder.is_dir() else set()


def faults_of(user: Terminal, done: Told) -> Iterator[str]:
    """Yield what is wrong after a run: "leaked: ...", "lost: ..." or "false: ..."."""
    live = int(local.summary(user.cloud())["live"])
    for trouble in done.trouble:
        yield f"lost: {trouble}"
    if done.result and done.folder:
        yield from _false(done.result, done.folder, live)
        yield from _lost(done.result, done.folder)
    deadline = time.monotonic() + GONE_WITHIN
    while left := hosts(user):
        if time.monotonic() > deadline:
            yield f"leaked: {sorted(left)}"
            return
        time.sleep(0.1)


def _false(result: Mapping[str, Any], folder: Path, live: int) -> Iterator[str]:
    """Yield what is false in a result.

    Args:
        live: how many instances lived when its run had ended, as the cloud knows.
    """
    claimed = len(result["receipt"]["left_running"])
    if live != claimed:
        yield f"false: {claimed} instances left, but {live} live"
        return
    launched = {str(each["host"]) for each in told(folder, "instance.launched")}
    states = {} if live else dict.fromkeys(launched, GONE)
    for started in told(folder, "run.started")[:1]:
        yield from (f"false: {each}" for each in objections(result, started, states))


def _lost(result: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Yield how many instances and logs a run has lost."""
    fleet, logs = len(result["fleet"]), folder / "logs"
    if result["outcome"] == "found" and fleet < SIZE:
        yield f"lost: {SIZE - fleet} of {SIZE} instances"
    have = sum(1 for _ in logs.glob("*.log")) if logs.is_dir() else 0
    if have < fleet:
        yield f"lost: {fleet - have} of {fleet} logs"
