"""The termination of instances: requested, repeated, and seen.

One rule: no instance of CND is reported as terminated before AWS lists it so, or does
not know it any more; every exception on the way is tried again, and what is left at
last is named in a `LeakError`.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from cnd.cloud.failures import LISTED_WITHIN, code
from cnd.ec2 import (
    ALL,
    EXISTING,
    LIVE,
    PARALLEL,
    REFUSALS,
    Instance,
    find,
    look_up,
    request_termination,
    unknown,
)
from cnd.errors import LeakError
from cnd.system.pauses import growing

T = TypeVar("T")

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client


REFUSED_PATIENCE = 30.0  # seconds: a role may get new credentials in time
# What a slow end takes longer: bare metal, or a system that shuts down in order.
SLOWER = 4.0
METAL = ".metal"  # in the names of such types: "c7g.metal", "m7i.metal-24xl"
FIRST_LOOK, LAST_LOOK = 0.05, 2.0  # seconds between two polls, growing
# Seconds after which an instance that AWS does not list by its id, and answers that it
# does not know, has vanished: three times as long as a new one is listed late.
VANISHED_AFTER = 3 * LISTED_WITHIN
NONE_LISTED: Mapping[str, Instance] = {}


@dataclass(frozen=True)
class Patience:
    """For how long a termination is tried, by how many calls at a time."""

    timeout: float = 300.0  # seconds until what was not seen terminated is a leak
    # Seconds for which refused calls are repeated; None: `REFUSED_PATIENCE`.
    refused: float | None = None
    # Seconds for which to go on polling although nothing is listed, where it is not
    # known what was launched.
    look: float = 0.0
    vanished_after: float = VANISHED_AFTER  # seconds; see there
    at_once: int = PARALLEL  # calls; with 1, no thread is needed
    # Ids of instances whose system need not shut down in order: their logs are here.
    without_shutdown: Collection[str] = ()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


USUAL_PATIENCE = Patience()


def terminate(
    ec2: EC2Client,
    *,
    run: str | None = None,
    known: Collection[str] = (),
    asked: Collection[str] = (),
    already_ended: Collection[str] | None = None,
    patience: Patience = USUAL_PATIENCE,
    seen: Callable[[Instance], None] = lambda instance: None,
    is_gone: Callable[[], bool] = lambda: False,
) -> list[Instance]:
    """Terminate every instance of `run` (None: of every run) and see it terminated.

    AWS is eventually consistent: an instance launched a second ago may not be
    listed yet.  Pass the ids that `launch` returned as `known`, so that those are
    terminated whether listed or not.  Whatever exception occurs, the termination is
    tried again until `patience.timeout` seconds have passed; `SLOWER` times as many for
    bare metal, and where all that is left is shutting down, which AWS bills no more.

    Args:
        asked: ids whose termination was requested a moment ago, and is to be seen.
        already_ended: the ids that were terminated before this call.  If it is given,
            every other listed instance counts as terminated here, also one that
            another program terminated between two polls.
        seen: called once for each instance when it is seen terminated.  What it raises
            is raised again once all are.
        is_gone: whether the cloud has ceased to be, and its instances with it; asked
            when it does not answer.

    Returns:
        What was terminated, each as last described.

    Raises:
        LeakError: some were not seen terminated in time; it names them.
    """
    clock = patience.clock
    began = last_accepted = clock()  # `last_accepted`: when a call was last not refused
    refused = REFUSED_PATIENCE if patience.refused is None else patience.refused
    request = partial(
        request_termination,
        ec2,
        at_once=patience.at_once,
        without_shutdown=patience.without_shutdown,
    )
    work = _Termination(ec2, run, {*known, *asked}, already_ended, seen, request)
    work.vanish_at = began + patience.vanished_after
    pauses = growing(FIRST_LOOK, LAST_LOOK, 1.5)
    # At once: to list hundreds takes a second.  It is requested again below.
    _attempt(lambda: request(known), None)
    while True:
        looked = clock()
        cause = work.poll(is_gone, looked)
        look = 0.0 if work.cloud_gone else patience.look
        if not work.waiting and cause is None and clock() >= began + look:
            return work.result()
        if code(cause) not in REFUSALS:
            last_accepted = clock()
        timeout = patience.timeout * (SLOWER if work.is_slow else 1)
        if clock() >= min(began + timeout, last_accepted + refused):
            raise _leak(ec2, work.waiting, run) from cause or work.bug
        # To list a large fleet takes long, here and at AWS: pause for as long.
        patience.sleep(max(next(pauses), clock() - looked))


class _Termination:
    """A termination under way: what it waits for, and what was seen terminated."""

    def __init__(
        self,
        ec2: EC2Client,
        run: str | None,
        waiting: set[str],
        already_ended: Collection[str] | None,
        seen: Callable[[Instance], None],
        request: Callable[[Collection[str]], None],
    ) -> None:
        self._ec2, self._run, self._seen = ec2, run, seen
        self._request = request  # the termination of these ids
        self._already_ended = already_ended
        self._ended: dict[str, Instance] = {}
        self.waiting = waiting
        self.vanish_at = math.inf  # from when unknown instances have vanished
        self.is_slow = False  # whether what it waits for is known to take long
        self.cloud_gone = False  # and every instance with it
        self.bug: Exception | None = None  # the last that `seen` raised

    def poll(self, is_gone: Callable[[], bool], now: float) -> Exception | None:
        """List the instances and request termination again; return the failure."""
        # If this fails, termination of the known ones is requested all the same.
        listed, cause = _attempt(partial(_listing, self._ec2, self._run), NONE_LISTED)
        self.waiting |= {i.id for i in listed.values() if i.state in EXISTING}
        if self._already_ended is not None:
            self.waiting |= (
                listed.keys() - set(self._already_ended) - self._ended.keys()
            )
        if cause is None:
            by_id, cause = _attempt(partial(self._by_id, listed, now), NONE_LISTED)
            listed = {**by_id, **listed}
        if cause and is_gone():
            listed = {i: _vanished(i, self._run) for i in self.waiting}
            cause, self.cloud_gone = None, True
        gone = _ended(listed, self.waiting)
        self.waiting -= {instance.id for instance in gone}
        self._ended |= {instance.id: instance for instance in gone}
        self.is_slow = _is_slow([listed.get(i) for i in self.waiting])
        failure = _request_again(self._request, self.waiting, listed)
        for instance in gone:  # reported after the termination of the others
            self.bug = _attempt(partial(self._seen, instance), None)[1] or self.bug
        return cause or failure

    def _by_id(self, listed: Mapping[str, Instance], now: float) -> dict[str, Instance]:
        """Return what is waited for and has no tag any more, or has vanished."""
        missing = self.waiting - listed.keys()
        if not missing:
            return {}
        found = {i.id: i for i in look_up(self._ec2, missing)}
        found = {
            i: replace(each, run=each.run or self._run or "")
            for i, each in found.items()
        }
        if now < self.vanish_at or not (missing := missing - found.keys()):
            return found
        vanished = {i: _vanished(i, self._run) for i in unknown(self._ec2, missing)}
        return found | vanished

    def result(self) -> list[Instance]:
        """Return what was terminated; raise what `seen` raised."""
        if self.bug:
            raise self.bug
        return sorted(self._ended.values(), key=lambda i: (i.run, i.index, i.id))


def _attempt(work: Callable[[], T], otherwise: T) -> tuple[T, Exception | None]:
    """Return the result of `work`, or `otherwise` and what it raised instead.

    Every kind of exception is caught: only an interrupt may stop a termination.
    """
    try:
        return work(), None
    except Exception as error:
        return otherwise, error


def _listing(ec2: EC2Client, run: str | None) -> Mapping[str, Instance]:
    return {i.id: i for i in find(ec2, run=run, states=ALL)}


def _leak(ec2: EC2Client, ids: Collection[str], run: str | None) -> LeakError:
    region = ec2.meta.region_name
    hint = f"run `fab scram{f' --run {run}' if run else ''} --region {region}`"
    return LeakError(
        ids, f"not seen terminated, perhaps still running in {region}", hint=hint
    )


def _vanished(instance_id: str, run: str | None) -> Instance:
    """Return an instance that has ended with its cloud; nothing else is known of it."""
    return Instance(
        id=instance_id,
        run=run or "",
        index=0,
        owner="",
        type="",
        state=ALL[-1],
        address=None,
        ssh_port=22,
        zone="",
        launched=dt.datetime.now(dt.timezone.utc),
        deadline="",
    )


def _is_slow(waiting: Collection[Instance | None]) -> bool:
    """Return whether one is bare metal, or all are shutting down; None: not listed."""
    known = [instance for instance in waiting if instance]
    if any(METAL in instance.type for instance in known):
        return True
    ending = [instance for instance in known if instance.state not in LIVE]
    return 0 < len(ending) == len(waiting)


def _ended(listed: Mapping[str, Instance], waiting: set[str]) -> list[Instance]:
    return [listed[i] for i in waiting if i in listed and listed[i].state == ALL[-1]]


def _request_again(
    request: Callable[[Collection[str]], None],
    waiting: set[str],
    listed: Mapping[str, Instance],
) -> Exception | None:
    """Request termination of those that do not shut down yet; return the failure.

    An id that is not listed may be listed in a moment.
    """
    ids = {i for i in waiting if i not in listed or listed[i].state in LIVE}
    _, refused = _attempt(lambda: request(ids), None)
    if code(refused) == "InvalidInstanceID.NotFound":
        ids &= listed.keys()
        _, refused = _attempt(lambda: request(ids), None)
    return refused
