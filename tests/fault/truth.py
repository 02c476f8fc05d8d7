"""What must be true at the end of every case, whatever befell it.

No instance lives, no process of it is left on this machine, and what its results say
is what the cloud says.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnd import pow as worker
from cnd.local import Endpoint, clear_faults, faults_laid, files
from tests.support.forking import Process, running
from tests.support.processes import children, process_state
from tests.support.runs import told
from tests.support.terminal import ALIVE, GONE, Terminal
from tests.support.waiting import eventually

GENEROUS = 60.0  # seconds: for a loaded machine


@dataclass
class Victim(Terminal):
    """A user to whom faults happen; what was done to them is counted."""

    faults: int = 0
    seconds_to_zero: list[float] = field(default_factory=list)

    def hit(self, process: Process, number: int = signal.SIGINT) -> float:
        """Send a signal to a program of the user; return when that was."""
        self.faults += 1
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
            process.communicate(timeout=GENEROUS)
        else:
            process.send_signal(number)
        return time.monotonic()

    def see_zero(
        self, since: float, *, within: float = GENEROUS, every: float = 0.2
    ) -> None:
        """Wait until no instance lives, and note how long after `since` that was."""
        eventually(lambda: not self.live(), within=within, every=every)
        self.seconds_to_zero.append(time.monotonic() - since)


def struck(cloud: Endpoint) -> int:
    """Return how often the faults that are laid have struck so far."""
    return sum(fault["struck"] for fault in faults_laid(cloud))


def forget(user: Victim, cloud: Endpoint) -> None:
    """Forget all faults that are laid, and count those that have struck."""
    user.faults += struck(cloud)
    clear_faults(cloud)


# --- nothing is left


def orphans(state: Path, cloud: int | None) -> dict[int, str]:
    """Return the processes that belong to a state folder, but not the cloud's own two.

    They carry the folder in their environment, words or current folder, or were
    forked by the cloud to be a host.
    """
    own = {cloud, *children(cloud)} if cloud else set()
    mark = re.compile(re.escape(str(state).encode()) + rb"(?=[/\0]|$)")
    hosts = {child for each in own for child in children(each)}
    found = {pid: " ".join(words) for pid, words in running(state).items()}
    for entry in os.listdir("/proc"):  # hundreds: with as little computing as can be
        if not entry.isdecimal() or (pid := int(entry)) in own:
            continue
        words = _read(f"/proc/{entry}/cmdline")
        told = (_read(f"/proc/{entry}/environ"), words, _current_folder(pid))
        if pid not in hosts and not any(map(mark.search, told)):
            continue
        if process_state(pid) not in ("", "Z", "X"):
            found[pid] = words.replace(b"\0", b" ").decode(errors="replace")
    return found


def _current_folder(pid: int) -> bytes:
    try:
        return os.readlink(b"/proc/%d/cwd" % pid)
    except OSError:
        return b""


def _read(path: str) -> bytes:
    """Return what a file of /proc has."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


# --- nothing false is said


def objections(
    result: Mapping[str, Any], started: Mapping[str, Any], states: Mapping[str, str]
) -> Iterator[str]:
    """Yield what is false in a result.

    Args:
        started: the run's first event.
        states: of every instance of the run that the cloud knows of.
    """
    yield from _objections_to_receipt(result, states)
    if result["nonce"] is not None and not started.get("script"):
        yield from _objections_to_nonce(result)
    for name in ("tested", "repeated"):
        if sum(part[name] for part in result["coverage"]) != result[name]:
            yield f"{name}: the classes do not add up"
    if result["outcome"] == "exhausted":
        before = started.get("tested_before", 0)
        if before + result["tested"] - result["repeated"] != started["nonces"]:
            yield "exhausted, but not every nonce was tested"
        if any(part["ended"] != "exhausted" for part in result["coverage"]):
            yield "exhausted, but not every class is"


def _objections_to_receipt(
    result: Mapping[str, Any], states: Mapping[str, str]
) -> Iterator[str]:
    gone, left = result["receipt"]["terminated"], result["receipt"]["left_running"]
    if (len(gone), len(left)) != (result["terminated"], result["left_running"]):
        yield "the receipt does not add up"
    if both := gone.keys() & set(left):
        yield f"terminated and left running: {both}"
    if alive := {i for i in gone if states.get(i, GONE) != GONE}:
        yield f"not terminated: {alive}"
    # The cloud forgets what has been gone for a while; what was launched is known.
    launched = {each["id"] for each in result["fleet"]}
    if unknown := set(left) - states.keys() - launched:
        yield f"left running, and unknown: {unknown}"
    if untold := states.keys() - gone.keys() - set(left):
        yield f"not in the receipt: {untold}"


def _objections_to_nonce(result: Mapping[str, Any]) -> Iterator[str]:
    nonce, digest = result["nonce"], worker.digest(result["block"], result["nonce"])
    if digest != result["hash"] or not worker.is_golden(digest, result["difficulty"]):
        yield f"{nonce} is not golden"
    if not result["chain"] and nonce % result["instances"] != result["index"]:
        yield f"{nonce} is not of class {result['index']}"
    if result["instance_id"] not in {each["id"] for each in result["fleet"]}:
        yield f"{result['instance_id']} is none of the fleet"


# --- all of it


def require(user: Victim, before: set[Path]) -> None:
    """Fail unless a case, which began with the runs `before`, has ended well."""
    cloud = files.read_endpoint(user.state / "cnd" / "local")
    new = sorted(set(user.runs()) - before)
    listed: list[dict[str, Any]] = []
    if cloud:
        regions = {cloud["region"], *map(_region, new)} - {""}

        def living() -> list[str]:
            found = [i for region in regions for i in user.instances(region, ALIVE)]
            return [f"{i['id']} of {i['run']} is {i['state']}" for i in found]

        _nothing_left(living)
        runs = [folder.name for folder in new]
        listed = [i for region in regions for i in user.of_runs(runs, region)]
    pid = cloud["pid"] if cloud else None
    _nothing_left(lambda: orphans(user.state, pid))
    for folder in new:
        states = {i["id"]: i["state"] for i in listed if i["run"] == folder.name}
        _require_truth(folder, states)


def _nothing_left(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + GENEROUS
    while left := found():
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.1)


def _region(folder: Path) -> str:
    path = folder / "order.json"
    return str(json.loads(path.read_text())["region"]) if path.exists() else ""


def _require_truth(folder: Path, states: Mapping[str, str]) -> None:
    path = folder / "result.json"
    if not path.exists():
        return
    (started,) = told(folder, "run.started")
    false = list(objections(json.loads(path.read_text()), started, states))
    assert not false, f"{path}: {false}"
    accused = [
        event
        for kind in ("worker.refuted", "worker.failed")
        for event in told(folder, kind)
        if "witness" in str(event.get("reason"))
    ]
    assert not accused, f"honest workers were accused: {accused}"
