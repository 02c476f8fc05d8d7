"""How soon a search on a fleet that is up finds its nonce, beside a fresh start.

Run it with `python -m tests.bench.bench_again`.  It prints and never fails.  It uses
the installed `cnd` on a local cloud of its own, and leaves none behind.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.bench_start import MAIN_JOB, show, user
from tests.support.terminal import Terminal

ROUNDS = 5
INSTANCES = 8


def found(someone: Terminal, *words: str) -> tuple[dict[str, Any], float]:
    """Do a run; return its result, and the seconds from Enter until a nonce was found.

    The find is an event of the worker's host, whose clock is this machine's.
    """
    entered = time.time()
    result = someone.json(*words)
    path = Path(result["logs"]["local"]).parent / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    first = min(e["time"] for e in events if e["kind"] == "worker.found")
    return result, first - entered


def main() -> None:
    """Print both, taken in turn."""
    with tempfile.TemporaryDirectory() as name:
        someone = user(Path(name))
        someone.run("local", "up")
        kept, _ = found(someone, *MAIN_JOB, "--keep")
        fresh, again = [], []
        for _ in range(ROUNDS):
            fresh.append(found(someone, *MAIN_JOB)[1])
            words = ("start", "--t", "200", "--d", "2", "--keep", "--on", kept["run"])
            again.append(found(someone, *words)[1])
        show(f"Enter -> found, D=2, N={INSTANCES}, a new fleet", fresh)
        show(f"Enter -> found, D=2, N={INSTANCES}, --on", again, "goal < 1 s")
        someone.run("local", "down")


if __name__ == "__main__":
    main()
