"""How long a whole run takes, how quickly it stops, and the report's way beside it.

Run it with `python -m tests.bench.bench_start`.  It prints and never fails.  It uses
the installed `cnd` on local clouds of its own, and leaves none behind.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cnd.transport.ssh import Host
from cnd.transport.ssh_connection import Login
from tests.support.terminal import Terminal, clean_environment

RUNS = 5
SLOW_BOOT = "20-30"  # seconds
REPORT_SECONDS = 5.0  # for which the report's way is let run
MAIN_JOB = ("start", "--t", "200", "--d", "2", "--n", "8")


def user(folder: Path, **environment: str) -> Terminal:
    """Return a user with a state folder, and so a local cloud, of their own."""
    state = folder / f"state{len(list(folder.iterdir()))}"
    state.mkdir()
    return Terminal(state, {**clean_environment(state), **environment}, folder)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def show(name: str, values: list[float], note: str = "") -> None:
    median = statistics.median(values)
    spread = f"{min(values):.2f} to {max(values):.2f}"
    print(f"{name:<52} n={len(values)}  median {median:.2f} s  ({spread})  {note}")


def from_nothing(folder: Path) -> None:
    seconds = []
    for _ in range(3):
        someone = user(folder)
        seconds.append(timed(lambda who=someone: who.run(*MAIN_JOB)))  # type: ignore[misc]
        someone.run("local", "down")
    show("the main job, local cloud not yet up", seconds, "goal < 6 s")


def running(folder: Path) -> None:
    someone = user(folder)
    someone.run("local", "up")
    someone.run(*MAIN_JOB)
    results: list[dict[str, Any]] = []
    seconds = [
        timed(lambda: results.append(someone.json(*MAIN_JOB))) for _ in range(RUNS)
    ]
    show("the main job, local cloud running", seconds, "goal < 3 s")
    for difficulty in ("2", "5"):
        words = ("start", "--t", "60", "--d", difficulty, "--n", "8")
        stops = [someone.json(*words)["seconds"]["stop"] for _ in range(RUNS)]
        show(
            f"found -> last worker stopped, N=8, D={difficulty}", stops, "goal < 0.3 s"
        )
    reports_way(someone)
    someone.run("local", "down")


def slow_boot(folder: Path) -> None:
    """Print what a run costs over the slowest boot, where booting takes long."""
    someone = user(folder, CND_LOCAL_BOOT_SECONDS=SLOW_BOOT)
    overheads = []
    for _ in range(3):
        began = time.time()
        words = ("start", "--t", "60", "--d", "30", "--nonces", "100000", "--n", "8")
        result = someone.json(*words, status=11)
        total = time.time() - began
        path = Path(result["logs"]["local"]).parent / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()]
        booted = [e["time"] for e in events if e["kind"] == "instance.running"]
        overheads.append(total - (max(booted) - began))
    show(f"over the slowest boot, boots of {SLOW_BOOT} s", overheads, "goal < 2 s")
    someone.run("local", "down")


def reports_way(someone: Terminal) -> None:
    """Print nonces/s of one SSH command per nonce, and of CND, on the same 8 hosts."""
    words = ("start", "--t", "5", "--d", "16", "--n", "8", "--keep")
    kept = someone.json(*words, status=10)
    hosts = someone.live()
    known = (someone.state / "cnd" / "local" / "known_hosts").read_text().splitlines()
    keys = dict(line.split(" ", 1) for line in known)
    with ThreadPoolExecutor(len(hosts)) as pool:
        tested = list(pool.map(lambda h: one_by_one(someone, h, keys), hosts))
    theirs = sum(tested) / REPORT_SECONDS
    ours = kept["hash_rate"]
    print(f"{'one SSH command per nonce, 8 hosts':<52} {theirs:.0f} nonces/s")
    print(f"{'CND, the same 8 hosts':<52} {ours:.0f} nonces/s  x {ours / theirs:.0f}")
    someone.run("scram")


def one_by_one(someone: Terminal, host: dict[str, Any], keys: dict[str, str]) -> int:
    """Test nonces on one host as the report did; return how many in the time."""
    address = host["address"]
    host_key = next(key for name, key in keys.items() if address in name)
    login = Login("ubuntu", someone.state / "cnd" / "id_ed25519", host_key)
    connection = Host(host["id"], address, login)
    connection.connect(lambda: time.monotonic() + 10)
    deadline, nonce = time.monotonic() + REPORT_SECONDS, host["index"]
    tested = 0
    while time.monotonic() < deadline:
        connection.run(
            "python3 -c 'import hashlib; "
            f'first = hashlib.sha256(b"{nonce}COMSM0010cloud").hexdigest(); '
            "print(hashlib.sha256(first.encode()).hexdigest())'"
        )
        nonce, tested = nonce + 8, tested + 1
    connection.close()
    return tested


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from_nothing(folder)
        running(folder)
        if "--quick" not in sys.argv:
            slow_boot(folder)


if __name__ == "__main__":
    main()
