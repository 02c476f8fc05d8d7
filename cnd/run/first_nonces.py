"""The first nonces of a space, tested here: what no worker may say otherwise.

Of small searches the law of `witness.py` says little; so the orchestrator tests the
first of the nonces itself while the fleet boots: all of a small space, and the part of
a large one where finds are dense.  What it learns is one event, for the race.

One rule: it takes `PATIENCE` at most, and a golden nonce counts after hashlib said so.
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
# Seconds; with hashlib, or a block of kilobytes, it gets less far.  On a small machine
# the start of a run in the local cloud takes longer by a third of it.
PATIENCE = 0.1
RARE = 16.0  # golden nonces are so rare that there is one in 16 such checks
GOLDEN_A_CLASS, FEWEST_GOLDEN = 4, 64  # that the event names; then it ends
CHUNK = 2**12  # nonces between two looks at the clock
# Plain C: a kernel for a certain processor proves itself in a child before it may
# search, which this process, with its threads, cannot fork.
KERNEL = "portable"


def aside(plan: Plan) -> Event:
    """Do `first_nonces` in a thread of its own, which lets the launch go first."""
    if sys.platform == "linux":  # elsewhere priorities are not a thread's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    return first_nonces(plan)


def first_nonces(plan: Plan) -> Event:
    """Test the first nonces of a plan's space; return what is golden among them."""
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
    """Return how many nonces are worth a look: none where a find is not in reach."""
    if plan.nonces > MOST and 16**plan.difficulty > RARE * MOST:
        return 0
    return min(MOST, plan.nonces)


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
