"""How fast this machine searches, measured with the worker itself for a moment.

One rule: it is measured, on all cores and with whatever else the machine does now.
"""

from __future__ import annotations

import json
import subprocess
import sys

from cnd.model.catalog import Rate
from cnd.model.plan import HASH_DIGITS
from cnd.transport.payload import WORKER

SECONDS = 0.4  # of search; starting processes and kernels takes as long
LONGER = 4.0  # the same, where a busy machine has tested nothing by then
PATIENCE = 15.0  # seconds after which a machine that does not answer has no rate


def rate(kernel: str = "auto", seconds: float = SECONDS) -> Rate | None:
    """Return the hash rate of this machine, or None if the worker does not run."""
    command = [sys.executable, "-I", "-S", str(WORKER), "--no-syslog"]
    limits = ["--difficulty", str(HASH_DIGITS), "--time-limit", str(seconds)]
    try:
        done = subprocess.run(
            [*command, *limits, "--kernel", kernel],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,  # at its time limit the worker exits with another status
        )
        last = json.loads(done.stdout.splitlines()[-1])
        found = float(last["rate"])
    except (subprocess.SubprocessError, OSError, ValueError, LookupError, TypeError):
        return None
    if not found and seconds < LONGER:
        return rate(kernel, LONGER)
    return Rate(found, "measured here just now") if found else None
