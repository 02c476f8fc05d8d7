"""How fast this machine searches, measured with the worker itself for a moment.

One rule: it is measured, on all cores and with whatever else the machine does now; a
rate that does not repeat itself is called one, and the load is named with it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence

from cnd.model.catalog import Rate
from cnd.model.format import number
from cnd.model.plan import HASH_DIGITS
from cnd.transport.payload import WORKER

SLICE = 0.25  # seconds of search between two looks at the rate
MOST = 1.5  # seconds of search; starting processes and kernels takes half a second
AGREED = 0.1  # by which two slices in turn may differ
BUSY = 0.5  # of the cores that are in use: with more, the load is named
LONGER = 4.0  # the same, where a busy machine has tested nothing by then
PATIENCE = 15.0  # seconds after which a machine that does not answer has no rate


def rate(kernel: str = "auto", most: float = MOST) -> Rate | None:
    """Return the hash rate of this machine, or None if the worker does not run.

    Args:
        most: seconds of search, if no two slices in turn agree before.
    """
    load = os.getloadavg()[0]  # without the trial's own
    command = [sys.executable, "-I", "-S", str(WORKER), "--no-syslog"]
    command += ["--difficulty", str(HASH_DIGITS), "--time-limit", str(most)]
    command += ["--progress", str(SLICE), "--kernel", kernel]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return None
    late = threading.Timer(PATIENCE, process.kill)
    late.daemon = True
    late.start()
    try:
        with process:
            slices = until_two_agree(process.stdout or ())
            process.terminate()
    finally:
        late.cancel()
    if not any(slices) and most < LONGER:
        return rate(kernel, LONGER)
    return judged(slices, load, os.cpu_count() or 1)


def until_two_agree(lines: Iterable[str]) -> list[float]:
    """Return the rates of a worker's slices, up to two in turn that agree, or all."""
    slices: list[float] = []
    for line in lines:
        try:
            event = json.loads(line)
            if event["event"] == "progress":
                slices.append(float(event["rate"]))
        except (ValueError, LookupError, TypeError):
            continue
        if agreed(slices):
            break
    return slices


def agreed(slices: Sequence[float]) -> bool:
    """Whether the last two slices are the same rate."""
    low, high = sorted(slices[-2:]) if len(slices) > 1 else (0.0, 1.0)
    return low >= high * (1 - AGREED) > 0


def judged(slices: Sequence[float], load: float, cores: int) -> Rate | None:
    """Return what slices in turn say of a machine, or None if they say nothing.

    Args:
        load: how many processes wanted a core besides.
    """
    if not any(slices):
        return None
    source = "measured here just now"
    if load > BUSY * cores:
        source += f" at load {load:.1f} on {cores} core{'s' * (cores > 1)}"
    if agreed(slices):
        return Rate(statistics.fmean(slices[-2:]), source)
    low, high = number(min(slices)), number(max(slices))
    return Rate(statistics.fmean(slices), f"about: {low} to {high}, {source}")
