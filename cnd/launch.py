"""Launching a fleet: one request after the other until it is there, or cannot be.

One rule: what to ask for next is decided in `cnd.capacity`.  Here it is told before it
is asked, each instance is told the moment that it is launched, and no wait is silent.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace

from cnd import account, capacity, ec2
from cnd.aws import code
from cnd.capacity import Answer, Bid, Wanted
from cnd.cloud import Cloud
from cnd.errors import CapacityError, CloudError
from cnd.events import Emit, Event
from cnd.plan import Plan
from cnd.provision import Provision


class Launcher:
    """Launches the instances of one run."""

    def __init__(self, cloud: Cloud, plan: Plan, run: str) -> None:
        self._cloud, self._plan, self._run = cloud, plan, run
        self.unsure = False  # whether a launch that failed may have launched something

    def launch(
        self,
        provision: Provision,
        count: int,
        *,
        least: int,
        tell: Emit,
        wait: Callable[[float], bool],
        first: int = 0,
    ) -> list[ec2.Instance]:
        """Launch `count` instances, or as many as can be had, but `least`.

        Each is told as `instance.launched`, with its index from `first` on.

        Args:
            wait: waits so many seconds; returns whether the run is to go on.

        Returns:
            What was launched; fewer than `least` only where the run is not to go on.

        Raises:
            CloudError: fewer than `least` can be had.  Those that were told are there.
        """
        specs = {spec.instance_type: spec for spec in provision.specs}
        wanted = Wanted(count, least, tuple(specs), self._plan.subnets)
        answers: list[Answer] = []
        launched: list[ec2.Instance] = []
        trouble: list[CloudError] = []
        while wait(0) and (bid := capacity.next_bid(wanted, answers)):
            try:
                new = self._ask(specs[bid.type], bid, tell, wait)
            except CloudError as error:
                if code(error) not in capacity.REFUSALS:
                    raise
                tell(_refused(bid, error))
                trouble.append(error)
                answers.append(Answer(bid, refusal=code(error)))
                if wanted.subnets == ("",) and code(error) in capacity.NO_ROOM:
                    zones = account.default_subnets(self._cloud.ec2)
                    wanted = replace(wanted, subnets=("", *zones))
                continue
            for instance in new:
                tell(event(instance, first + len(launched)))
                launched.append(instance)
            answers.append(Answer(bid, len(new)))
        if len(launched) < least and wait(0):
            raise _too_few(len(launched), wanted, trouble)
        return launched

    def _ask(
        self,
        spec: ec2.LaunchSpec,
        bid: Bid,
        tell: Emit,
        wait: Callable[[float], bool],
    ) -> list[ec2.Instance]:
        """Send one request, again and again while AWS throttles or says nothing."""
        token = uuid.uuid4().hex
        fields = {"count": bid.most, "type": bid.type, "token": token}
        tell(Event("instance.requested", fields={**fields, "subnet": bid.subnet}))
        failures, doubt = 0, False
        while True:
            try:
                found = ec2.launch(
                    self._cloud.ec2_once,
                    replace(spec, subnet=bid.subnet),
                    run=self._run,
                    owner=self._cloud.owner,
                    token=token,
                    count=bid.most,
                    least=bid.least,
                )
                return sorted(found, key=lambda each: (each.index, each.id))
            except CloudError as error:
                failures += 1
                seconds = capacity.pause(code(error), failures)
                doubt |= code(error) in ("", *ec2.INTERNAL)
                if seconds is None:
                    self.unsure |= doubt
                    raise
                if code(error) in capacity.THROTTLED:
                    fields = {"seconds": seconds, "reason": code(error)}
                    tell(Event("launch.delayed", fields=fields))
                if not wait(seconds):
                    self.unsure |= doubt
                    raise


def event(instance: ec2.Instance, index: int) -> Event:
    """Return the news that `instance` is launched, as the one of place `index`."""
    fields = {"type": instance.type, "zone": instance.zone}
    return Event("instance.launched", index, instance.id, fields)


def _refused(bid: Bid, error: CloudError) -> Event:
    where = bid.subnet or "any zone"
    fields = {"count": bid.least, "type": bid.type, "where": where}
    return Event("launch.refused", fields={**fields, "reason": code(error)})


def _too_few(launched: int, wanted: Wanted, trouble: list[CloudError]) -> CloudError:
    """Return why there are too few: AWS's first word, if nothing was launched."""
    if not launched:
        return trouble[0]
    least = "" if wanted.least == wanted.instances else f", at least {wanted.least}"
    message = (
        f"only {launched} of {wanted.instances} instances could be launched{least}: "
        f"{trouble[-1]}"
    )
    hint = f"--at-least {launched} takes what there is; {trouble[-1].hint}"
    return CapacityError(message, hint=hint)
