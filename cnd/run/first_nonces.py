"""The first nonces of a space, tested here: no worker is believed against it.

Of small searches the statistics of `witness.py` prove little; so the orchestrator tests
the first of the nonces itself while the fleet boots: all of a small space, or the part
of a large one where finds are dense.  The outcome is one event, for the search state.

One rule: it takes `PATIENCE` at most, and hashlib confirms each golden nonce.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Any

from cnd import kernel
from cnd import pow as worker
from cnd.model.events import Event
from cnd.model.plan import Plan

MOST = 2**20  # nonces: 0.1 to 0.3 s of one core with a native kernel
# Seconds; with hashlib, or a block of kilobytes, fewer nonces are tested.  On a small
# machine a third of it delays the start of a run in the local cloud.
PATIENCE = 0.1
RARE = 16.0  # golden nonces are so rare that there is one in 16 such checks
GOLDEN_A_CLASS, FEWEST_GOLDEN = 4, 64  # after so many golden nonces it ends
CHUNK = 2**12  # nonces between two looks at the clock
# Plain C: a kernel for certain processors must pass a self-test in a child process
# before it may search, and this process, with its threads, cannot fork one.
KERNEL = "portable"


def at_low_priority(plan: Plan) -> Event:
    """Run `first_nonces` in the calling thread, at the lowest priority."""
    if sys.platform == "linux":  # elsewhere a priority belongs to the process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    return first_nonces(plan)


def first_nonces(plan: Plan) -> Event:
    """Test the first nonces of a plan's space; return the golden ones as an event."""
    began = time.monotonic()
    most = _most(plan)
    most_golden = max(FEWEST_GOLDEN, GOLDEN_A_CLASS * plan.instances)
    scanner, below = _scanner(plan), 0
    golden: list[int] = []
    while below < most and len(golden) < most_golden:
        nonce = scanner.scan(below, 1, min(CHUNK, most - below))
        below += scanner.tested
        if nonce is not None and _is_golden(plan, nonce):
            golden.append(nonce)
        if time.monotonic() >= began + PATIENCE:
            break
    seconds = round(time.monotonic() - began, 4)
    fields = {"below": below, "golden": golden, "seconds": seconds}
    return Event("space.checked", fields=fields)


def _most(plan: Plan) -> int:
    """Return how many nonces to test: none where a find is improbable."""
    if min(piece.start for piece in plan.pieces) >= MOST:
        return 0  # earlier runs have tested them
    if plan.nonces > MOST and 16**plan.difficulty > RARE * MOST:
        return 0
    return min(MOST, plan.nonces)


def _is_golden(plan: Plan, nonce: int) -> bool:
    return worker.is_golden(worker.digest(plan.block, nonce), plan.difficulty)


def _scanner(plan: Plan) -> Any:
    """Return a scanner that works on any processor: see `pow.HashlibScanner`."""
    path = kernel.library(kernel.here())
    if path is not None:
        try:
            library = worker.load_library(str(path))
            names = [name for name, _ in worker.list_kernels(library)]
            number = names.index(KERNEL)
            return worker.NativeScanner(library, number, plan.block, plan.difficulty)
        except (worker.Refused, ValueError):
            pass
    return worker.HashlibScanner(plan.block, plan.difficulty)
