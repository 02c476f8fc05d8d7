"""The end of a fleet: what launches instances goes first, then they, and all is seen.

One rule: nothing is called gone before AWS was seen to say so; what was not seen gone
is a `LeakError` that names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.errors import LeakError
from cnd.provision import auto_scaling

GROUPS_GONE = 300.0  # seconds until deleted groups are no longer listed, at most
LOOK = 1.0  # seconds between two looks for that


def scram(
    cloud: Cloud,
    run: str | None,
    *,
    groups: Sequence[str],
    known: Collection[str] = (),
    asked: Collection[str] = (),
    look: float = 0.0,
    past: Collection[str] | None = None,
    seen: Callable[[ec2.Instance], None] = lambda instance: None,
    at_once: int = ec2.ASKING,
) -> list[ec2.Instance]:
    """End every instance of `run` (None: of every run); return them.

    Args:
        groups: names of the Auto Scaling groups that hold them.
        known, asked, look, past, seen, at_once: as for `ec2.terminate`.

    Raises:
        LeakError: some were not seen terminated, or a group was not seen gone.
    """
    trouble = _delete(cloud, groups)
    ended = ec2.terminate(
        cloud.ec2,
        run=run,
        known=known,
        asked=asked,
        look=look,
        past=past,
        refused=cloud.refused_patience,
        seen=seen,
        is_gone=cloud.gone,
        at_once=at_once,
    )
    if groups:
        _see_gone(cloud, groups, trouble)
        # What came of a launch that was under way.
        ended += ec2.terminate(
            cloud.ec2,
            run=run,
            refused=cloud.refused_patience,
            seen=seen,
            is_gone=cloud.gone,
            at_once=at_once,
        )
    return ended


def _delete(cloud: Cloud, groups: Sequence[str]) -> Exception | None:
    """Delete all groups; return the last failure, which keeps no other from its end.

    Of whatever kind: nothing but an interrupt keeps a fleet from its end.
    """
    trouble: Exception | None = None
    for name in groups:
        try:
            auto_scaling.delete(cloud, name)
        except Exception as error:
            trouble = error
    return trouble


def _see_gone(cloud: Cloud, groups: Sequence[str], trouble: Exception | None) -> None:
    """Return when none of `groups` is listed any more; delete again what stays."""
    deadline = time.monotonic() + GROUPS_GONE
    left = list(groups)
    while left and not (trouble and cloud.gone()):
        try:
            left = [name for name in auto_scaling.find(cloud) if name in groups]
            trouble = _delete(cloud, left) if trouble else None
        except Exception as error:
            trouble = error
        if left and time.monotonic() >= deadline:
            region = f"--region {cloud.region}"
            hint = f"they launch anew what is terminated: run `fab scram {region}`"
            message = "Auto Scaling groups that were not seen gone"
            raise LeakError(left, message, hint=hint) from trouble
        if left:
            time.sleep(LOOK)
