"""The names of runs, from which the names of a run's queue, group and template derive.

One rule: only a name in exactly this form counts as a run's; names of other programs
may begin with the same prefix.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets

RUN = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")


def new_run(latest: str = "") -> str:
    """Return the name of a new run: sorts by time, unique, fit for tags and queues.

    Args:
        latest: the newest run on this disk; the name sorts after it, also where both
            are of the same second.
    """
    while True:
        second = f"{dt.datetime.now(dt.timezone.utc):%Y%m%d-%H%M%S}"
        name = f"{second}-{secrets.token_hex(2)}"
        if name > latest or not latest.startswith(second):
            return name


def is_run(text: str) -> bool:
    """Return whether `text` is a name that `new_run` may have given."""
    return bool(RUN.fullmatch(text))
