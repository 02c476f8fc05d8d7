"""The end of a fleet: Auto Scaling groups are deleted first, then instances terminated.

One rule: nothing is reported as ended before AWS lists it so; what was not seen to end
is a `LeakError` that names it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code
from cnd.ec2 import REFUSALS, Instance
from cnd.errors import LeakError
from cnd.provision import auto_scaling
from cnd.provision.termination import (
    REFUSED_PATIENCE,
    USUAL_PATIENCE,
    Patience,
    terminate,
)

GROUPS_GONE = 300.0  # seconds until deleted groups are no longer listed, at most
LOOK = 1.0  # seconds between two polls for that
# Seconds of a termination after which groups whose deletion was refused are deleted
# again: they launch anew what is terminated.
ROUND = 3.0
# Codes by which Auto Scaling refuses this caller, now and later.
DENIED = (*REFUSALS, "AccessDenied")


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
    ended: dict[str, Instance] = {}

    def note(instance: Instance) -> None:
        if instance.id not in ended:
            ended[instance.id] = instance
            seen(instance)

    def end(known: Collection[str], asked: Collection[str], within: Patience) -> None:
        past = None if already_ended is None else {*already_ended, *ended}
        terminate(
            cloud.ec2,
            run=run,
            known=known,
            asked=asked,
            already_ended=past,
            patience=within,
            seen=note,
            is_gone=cloud.gone,
        )

    delete = partial(_delete, cloud, set[str]())
    refusal = delete(groups)
    try:
        if refusal:
            known, asked = {*known, *asked}, ()
            again = partial(delete, groups)
            refusal = _end_in_rounds(cloud, again, patience, partial(end, known, ()))
        end(known, asked, patience)
    finally:  # after an interrupt, too
        refusal = delete(groups) if refusal else None
    if groups:
        _see_gone(cloud, groups, delete, refusal)
        # A launch by the group may have been under way.
        end((), (), replace(patience, look=0.0))
    return sorted(ended.values(), key=lambda i: (i.run, i.index, i.id))


def _patience(cloud: Cloud) -> float:
    """Return the seconds for which calls that are refused are repeated."""
    refused = cloud.refused_patience
    return REFUSED_PATIENCE if refused is None else refused


def _end_in_rounds(
    cloud: Cloud,
    delete: Callable[[], Exception | None],
    patience: Patience,
    end: Callable[[Patience], None],
) -> Exception | None:
    """Terminate while `delete` is refused; return the last refusal."""
    refusal: Exception | None = None
    deadline = patience.clock() + _patience(cloud)
    left = True
    while left:
        try:
            end(replace(patience, timeout=ROUND, look=0.0))
            left = False
        except LeakError:  # the groups have perhaps launched others meanwhile
            pass
        refusal = delete()
        if not refusal or patience.clock() >= deadline:
            break
    return refusal


def _delete(cloud: Cloud, emptied: set[str], groups: Sequence[str]) -> Exception | None:
    """Delete all groups, also after a failure; return the last failure.

    One that cannot be deleted is set to hold no instance: it launches nothing more.
    That is done once, and noted in `emptied`: a group whose size was just changed may
    refuse to be deleted for that very reason.
    Every kind of exception is caught: only an interrupt may stop a termination.
    """
    trouble: Exception | None = None
    for name in groups:
        try:
            auto_scaling.delete(cloud, name)
        except Exception as error:
            trouble = error
            if name not in emptied:
                with contextlib.suppress(Exception):
                    auto_scaling.empty(cloud, name)
                    emptied.add(name)
    return trouble


def _see_gone(
    cloud: Cloud,
    groups: Sequence[str],
    delete: Callable[[Sequence[str]], Exception | None],
    trouble: Exception | None,
) -> None:
    """Return when none of `groups` is listed any more; `delete` again what stays."""
    began = accepted = time.monotonic()  # `accepted`: when a call was last not refused
    left = list(groups)
    while left and not (trouble and cloud.gone()):
        try:
            left = [name for name in auto_scaling.find(cloud) if name in groups]
            trouble = delete(left) if trouble else None
        except Exception as error:
            trouble = error
        now = time.monotonic()
        if code(trouble) not in DENIED:
            accepted = now
        if left and now >= min(began + GROUPS_GONE, accepted + _patience(cloud)):
            region = f"--region {cloud.region}"
            hint = f"they may launch anew what is terminated: run `fab scram {region}`"
            message = "Auto Scaling groups that were not seen gone"
            raise LeakError(left, message, hint=hint) from trouble
        if left:
            time.sleep(LOOK)
