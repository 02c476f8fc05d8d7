"""How fast this very machine searches: the worker itself, for a moment.

One rule: it is measured, with all cores and whatever else the machine does just now.
"""

from __future__ import annotations

import json
import subprocess
import sys

from cnd import pow as worker
from cnd.model.catalog import Rate

SECONDS = 0.4  # of search; its processes and kernels take as long to begin
PATIENCE = 15.0  # seconds until a machine that does not answer has no rate


def rate(kernel: str = "auto") -> Rate | None:
    """Return the hash rate of this machine, or None if the worker does not run."""
    command = [sys.executable, "-I", "-S", worker.__file__, "--no-syslog"]
    limits = ["--difficulty", str(worker.HASH_DIGITS), "--time-limit", str(SECONDS)]
    try:
        done = subprocess.run(
            [*command, *limits, "--kernel", kernel],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,  # the end of its time limit is no success
        )
        last = json.loads(done.stdout.splitlines()[-1])
        found = float(last["rate"])
    except (subprocess.SubprocessError, OSError, ValueError, LookupError, TypeError):
        return None
    return Rate(found, "measured here just now") if found else None
