"""A wrong clock for the programs of a host, by libfaketime if it is installed.

One rule: durations stay right, as on a machine whose clock is set wrongly.  (The
monotonic clock is shifted as well: if libfaketime does not shift it, Python 3.11 and
newer cannot sleep.)
"""

from __future__ import annotations

from pathlib import Path

# Where Debian's package faketime installs it.
PLACES = "lib/*/faketime/libfaketimeMT.so.1"


def library() -> str:
    """Return the path of libfaketime, or "" if it is not installed."""
    return next((str(path) for path in sorted(Path("/usr").glob(PLACES))), "")


def set_off(seconds: float) -> dict[str, str]:
    """Return the environment of programs whose clock is `seconds` ahead."""
    return {"LD_PRELOAD": library(), "FAKETIME": f"{seconds:+.0f}s"}
