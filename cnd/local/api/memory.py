"""For how many more hosts this machine has memory.

One rule: it only reads.  A machine that runs out of memory kills processes, perhaps
the cloud, and every host with it.  So a launch that needs too much memory is refused,
as EC2 refuses a launch without capacity.
"""

from __future__ import annotations

import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")  # Linux only
# Memory of a host (bytes): a process with its worker takes 24 to 27 MB (measured,
# N = 64, both ways to bootstrap), a virtual machine all of its memory.
PROCESS, MACHINE = 28 << 20, 1024 << 20


def room(text: str, booting: int, each: int) -> int | None:
    """Return for how many more hosts there is memory; None if it is not known.

    Args:
        text: of ``/proc/meminfo``.
        booting: launched hosts that may not have taken their memory yet.
        each: bytes of a host.
    """
    found = dict(re.findall(r"^(\w+):\s*(\d+) kB$", text, re.M))
    if "MemAvailable" not in found:  # as in the meminfo of some containers
        return None
    free = sum(int(found.get(name, 0)) for name in ("MemAvailable", "SwapFree"))
    return max(0, 1024 * free // each - booting)


def room_now(booting: int, each: int) -> int | None:
    """Return the same for this machine, now; None if it is not known."""
    try:
        return room(MEMINFO.read_text(), booting, each)
    except OSError:
        return None
