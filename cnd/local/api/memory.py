"""How many more hosts this machine has the memory for.

One rule: it only reads.  A machine that runs out of memory kills processes, the cloud
among them, and every host with it; so a launch that would lead there is refused, as
EC2 refuses what it has no room for.
"""

from __future__ import annotations

import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")  # Linux's; where there is none, nothing is known
# What each host takes (bytes): a process with its worker 24 to 27 MB (measured, N = 64,
# both ways to bootstrap); a virtual machine what it is given.
PROCESS, MACHINE = 28 << 20, 1024 << 20


def room(text: str, booting: int, each: int) -> int | None:
    """Return for how many more hosts there is memory; None if it is not told.

    Args:
        text: of ``/proc/meminfo``.
        booting: hosts that have been launched and may not have taken theirs yet.
        each: bytes that a host takes.
    """
    found = dict(re.findall(r"^(\w+):\s*(\d+) kB$", text, re.M))
    if "MemAvailable" not in found:  # as in some containers' own meminfo
        return None
    free = sum(int(found.get(name, 0)) for name in ("MemAvailable", "SwapFree"))
    return max(0, 1024 * free // each - booting)


def room_now(booting: int, each: int) -> int | None:
    """Return the same of this machine, now; None if it does not tell."""
    try:
        return room(MEMINFO.read_text(), booting, each)
    except OSError:
        return None
