"""The first nonces of a space, tested here: what no worker may say otherwise.

Of small searches the law of `witness.py` says little; so the orchestrator tests the
first of the nonces itself while the fleet boots: all of a small space, and the part of
a large one where finds are dense.  What it learns is one event, for the race.

One rule: it takes `PATIENCE` at most, and a golden nonce counts after hashlib said so.
"""

from __future__ import annotations

import os
import time
from typing import Any

from cnd import kernel
from cnd import pow as worker
from cnd.events import Event
from cnd.plan import Plan

MOST = 2**20  # nonces: 0.1 to 0.3 s of one core with a native kernel
PATIENCE = 0.5  # seconds; with hashlib, or a block of kilobytes, it gets less far
MOST_GOLDEN = 1024  # that the event names; where they are denser it ends sooner
CHUNK = 2**12  # nonces between two looks at the clock
# Plain C: a kernel for a certain processor proves itself in a child before it may
# search, which this process, with its threads, cannot fork.
KERNEL = "portable"


def first_nonces(plan: Plan) -> Event:
    """Test the first nonces of a plan's space; return what is golden among them."""
    began = time.monotonic()
    most = min(MOST, plan.nonces)
    scanner, below = _scanner(plan), 0
    golden: list[int] = []
    while below < most and len(golden) < MOST_GOLDEN:
        nonce = scanner.scan(below, 1, min(CHUNK, most - below))
        below += scanner.tested
        if nonce is not None and _is_golden(plan, nonce):
            golden.append(nonce)
        if time.monotonic() >= began + PATIENCE:
            break
    seconds = round(time.monotonic() - began, 4)
    fields = {"below": below, "golden": golden, "seconds": seconds}
    return Event("space.checked", fields=fields)


def _is_golden(plan: Plan, nonce: int) -> bool:
    return worker.is_golden(worker.digest(plan.block, nonce), plan.difficulty)


def _scanner(plan: Plan) -> Any:
    """Return something that scans on any processor: see `pow.HashlibScanner`."""
    path = kernel.library(os.uname().machine)
    if path is not None:
        try:
            library = worker.load_library(str(path))
            names = [name for name, _ in worker.list_kernels(library)]
            number = names.index(KERNEL)
            return worker.NativeScanner(library, number, plan.block, plan.difficulty)
        except (worker.Refused, ValueError):
            pass
    return worker.HashlibScanner(plan.block, plan.difficulty)
