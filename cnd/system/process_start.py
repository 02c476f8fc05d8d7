"""When a command began: with its process, before the first line of its own code.

One rule: only programs begin with their process; a command that is called inside
another program begins with the call.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import cnd

# Seconds that a process may have waited before the package was imported.  One that is
# older was another program first: `exec` keeps the process and its start.
WAITED = 2.0
START_FIELD = 22  # of /proc/PID/stat: man 5 proc
_began: list[float] = []  # of this program, once it is known


def note() -> None:
    """Let the command begin with this process; the programs call this."""
    _began[:] = [_process_began()]


def began() -> float:
    """Return when the command began, on the monotonic clock."""
    return _began[0] if _began else time.monotonic()


def _process_began() -> float:
    """Return when this process began: as Linux counts it, else by its computing."""
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        _, _, rest = Path("/proc/self/stat").read_text().rpartition(")")
        ticks = int(rest.split()[START_FIELD - 3])  # the first two stand before
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        age = since_boot - ticks / os.sysconf("SC_CLK_TCK")
        return likely(time.monotonic() - age, cnd.BEGAN)
    return cnd.BEGAN


def likely(counted: float, computed: float) -> float:
    """Return when a program began: when its process did, unless that is too early.

    Args:
        counted: when the process began.
        computed: when it would have begun, had it never waited.
    """
    return counted if computed - WAITED < counted < computed else computed
