"""A wrong clock for the programs of a host, by libfaketime where it is installed.

One rule: what a program measures stays right, as on a machine whose clock was set
wrongly.  (Its monotonic clock is moved as well, by the same: where libfaketime leaves
that alone, Python 3.11 and newer cannot sleep.)
"""

from __future__ import annotations

from pathlib import Path

# Where Debian's package faketime puts it.
PLACES = "lib/*/faketime/libfaketimeMT.so.1"


def library() -> str:
    """Return the path of libfaketime, or "" where there is none."""
    return next((str(path) for path in sorted(Path("/usr").glob(PLACES))), "")


def set_off(seconds: float) -> dict[str, str]:
    """Return the environment of programs whose clock is so many seconds ahead."""
    return {"LD_PRELOAD": library(), "FAKETIME": f"{seconds:+.0f}s"}
