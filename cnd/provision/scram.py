"""The end of a fleet: Auto Scaling groups are deleted first, then instances terminated.

One rule: nothing is reported as ended before AWS lists it so; what was not seen to end
is a `LeakError` that names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from cnd.cloud.connection import Cloud
from cnd.ec2 import Instance
from cnd.errors import LeakError
from cnd.provision import auto_scaling
from cnd.provision.termination import USUAL_PATIENCE, Patience, terminate

GROUPS_GONE = 300.0  # seconds until deleted groups are no longer listed, at most
LOOK = 1.0  # seconds between two polls for that


def scram(
    cloud: Cloud,
    run: str | None,
    *,
    groups: Sequence[str],
    known: Collection[str] = (),
    asked: Collection[str] = (),
    patience: Patience = USUAL_PATIENCE,
    already_ended: Collection[str] | None = None,
    seen: Callable[[Instance], None] = lambda instance: None,
) -> list[Instance]:
    """End every instance of `run` (None: of every run); return them.

    Args:
        groups: names of the Auto Scaling groups that hold them.
        patience: `refused` goes by the cloud; `look` counts for the first attempt.
        known, asked, already_ended, seen: as for `termination.terminate`.

    Raises:
        LeakError: some were not seen terminated, or a group was not seen gone.
    """
    patience = replace(patience, refused=cloud.refused_patience)
    trouble = _delete(cloud, groups)
    ended = terminate(
        cloud.ec2,
        run=run,
        known=known,
        asked=asked,
        already_ended=already_ended,
        patience=patience,
        seen=seen,
        is_gone=cloud.gone,
    )
    if groups:
        _see_gone(cloud, groups, trouble)
        # A launch by the group may have been under way.
        ended += terminate(
            cloud.ec2,
            run=run,
            patience=replace(patience, look=0.0),
            seen=seen,
            is_gone=cloud.gone,
        )
    return ended


def _delete(cloud: Cloud, groups: Sequence[str]) -> Exception | None:
    """Delete all groups, also after a failure; return the last failure.

    Every kind of exception is caught: only an interrupt may stop a termination.
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
