"""Launching a fleet: one request after the other until it is there, or cannot be.

One rule: what to ask for next is decided in `cnd.provision.capacity`.  Here it is
told before it is asked, each instance is told the moment that it is launched, and no
wait is silent.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code
from cnd.errors import CapacityError, CloudError, CndError
from cnd.model.events import Emit, Event, trouble
from cnd.model.plan import Plan
from cnd.provision import access, auto_scaling, capacity, ec2_fleet
from cnd.provision import user_data as boot_script
from cnd.provision.capacity import LaunchAnswer, LaunchRequest, Wanted
from cnd.provision.prepare import Provision

T = TypeVar("T")

GROUP_LOOK = 5.0  # seconds between two looks at what a group has tried


@dataclass
class LaunchProgress:
    """A launch on its way: what it is to come to, and what it has come to so far."""

    instances: int
    least: int  # with fewer there is no run
    tell: Emit
    wait: Callable[[float], bool]  # for seconds; whether the run is to go on
    first: int = 0  # the index of the first instance
    launched: list[ec2.Instance] = field(default_factory=list)
    trouble: list[CloudError] = field(default_factory=list)

    @property
    def missing(self) -> int:
        return self.instances - len(self.launched)

    def take(self, instance: ec2.Instance) -> None:
        """Take note of an instance that was launched, and tell it."""
        self.tell(event(instance, self.first + len(self.launched)))
        self.launched.append(instance)

    def refused(self, error: CloudError, count: int, what: str, where: str) -> None:
        """Take note that there is no room for so many, and tell it."""
        self.trouble.append(error)
        fields = {"count": count, "type": what, "where": where}
        self.tell(Event("launch.refused", fields={**fields, "reason": code(error)}))


class Launcher:
    """Launches the instances of one run."""

    def __init__(self, cloud: Cloud, plan: Plan, run: str) -> None:
        self._cloud, self._plan, self._run = cloud, plan, run
        self._groupless = False  # whether AWS has refused to make a group
        self._refusal = ""  # AWS's last word on why its group launches too few
        self.unsure = False  # whether a launch that broke off may have launched

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
        order = LaunchProgress(count, least, tell, wait, first)
        try:
            if self._plan.market == "on-demand":
                self._by_instances(provision, order)
            else:
                self._by_fleet(provision, order)
        except CndError:
            raise  # whatever was asked for has its answer, or is in doubt already
        except BaseException:  # Ctrl-C, perhaps between a request and its answer
            self.unsure = True
            raise
        if len(order.launched) < least and wait(0):
            raise _too_few(order)
        return order.launched

    def launch_group(self, provision: Provision, tell: Emit) -> None:
        """Let an Auto Scaling group launch the fleet, and launch anew what is lost.

        Raises:
            CloudError: there is no such group, or one that was not filled.
        """
        cloud, plan, specs = self._cloud, self._plan, provision.specs
        if len({spec.image for spec in specs}) > 1:
            message = "--hold: the types need different images"
            raise CloudError(message, hint="types of one processor architecture")
        zones = access.subnets(cloud.ec2, [name for name in plan.subnets if name])
        fields = {"count": plan.instances, "type": ", ".join(plan.types)}
        group = auto_scaling.group_name(self._run)
        tell(Event("instance.requested", fields={**fields, "token": group}))
        ec2_fleet.make_template(cloud.ec2, specs[0], run=self._run, owner=cloud.owner)
        on_spot, size = plan.market == "spot", plan.instances
        try:
            auto_scaling.create(
                cloud, specs, zones, run=self._run, count=size, spot=on_spot
            )
        except CloudError as error:
            self._groupless = code(error) not in ("", *ec2.INTERNAL)
            raise
        auto_scaling.fill(cloud, run=self._run, count=size, lifetime=plan.lifetime)

    def report_failures(
        self, tell: Emit, missing: Callable[[], int], wait: Callable[[float], bool]
    ) -> None:
        """Tell why the group launches too few, each of AWS's reasons once.

        Returns when `wait`, which waits so many seconds, says that the run is over.
        """
        what, told = ", ".join(self._plan.types), set[str]()
        while wait(GROUP_LOOK):
            if not (count := missing()):
                continue
            fields = {"count": count, "type": what, "where": "the group's zones"}
            try:
                reasons = auto_scaling.failures(self._cloud, self._run)
                self._refusal = reasons[-1] if reasons else self._refusal
                seen = {
                    reason: Event("launch.refused", fields={**fields, "reason": reason})
                    for reason in reasons
                }
            except CloudError as error:
                seen = {str(error): trouble(error)}
            for reason in seen.keys() - told:
                tell(seen[reason])
            told |= seen.keys()

    @property
    def nothing_launched(self) -> str:
        """Say of a group that launched nothing why, as far as AWS has told."""
        why = f": {self._refusal}" if self._refusal else ""
        return f"nothing of it was launched{why}"

    @property
    def groups(self) -> list[str]:
        """The names of the Auto Scaling groups that launch for this run."""
        if not self._plan.hold or self._groupless:
            return []
        return [auto_scaling.group_name(self._run)]

    def clean_up(self) -> None:
        """Remove what launches left besides instances, which must be gone.

        Raises:
            CloudError: it could not be removed; it costs nothing.
        """
        if self._plan.market == "on-demand" and not self._plan.hold:
            return
        ec2_fleet.remove_template(self._cloud.ec2, self._run)

    def _by_instances(self, provision: Provision, order: LaunchProgress) -> None:
        """Launch by RunInstances: place after place, type after type."""
        specs = {spec.instance_type: spec for spec in provision.specs}
        wanted = Wanted(order.instances, order.least, tuple(specs), self._plan.subnets)
        answers: list[LaunchAnswer] = []
        while order.wait(0) and (request := capacity.next_request(wanted, answers)):
            try:
                new = self._ask(specs[request.type], request, order)
            except CloudError as error:
                if code(error) not in capacity.REFUSALS:
                    raise
                where = request.subnet or "any zone"
                order.refused(error, request.least, request.type, where)
                answers.append(LaunchAnswer(request, refusal=code(error)))
                if wanted.subnets == ("",) and code(error) in capacity.NO_ROOM:
                    zones = access.subnets(self._cloud.ec2)
                    wanted = replace(wanted, subnets=("", *zones))
                continue
            for instance in new:
                order.take(instance)
            answers.append(LaunchAnswer(request, len(new)))

    def _ask(
        self, spec: ec2.LaunchSpec, request: LaunchRequest, order: LaunchProgress
    ) -> list[ec2.Instance]:
        first = order.first + len(order.launched)
        user_data = boot_script.numbered(spec.user_data, first)
        now = time.time()  # a repeated request must be the same to the letter

        def call(token: str) -> list[ec2.Instance]:
            found = ec2.launch(
                self._cloud.ec2_once,
                replace(spec, subnet=request.subnet, user_data=user_data),
                run=self._run,
                owner=self._cloud.owner,
                token=token,
                count=request.most,
                least=request.least,
                clock=lambda: now,
            )
            return sorted(found, key=lambda each: (each.index, each.id))

        fields = {"count": request.most, "type": request.type, "subnet": request.subnet}
        return self._patiently(call, fields, order)

    def _by_fleet(self, provision: Provision, order: LaunchProgress) -> None:
        """Launch by EC2 Fleet: on spot, and what is missing on demand, if it may be."""
        cloud, specs = self._cloud, provision.specs
        zones = access.subnets(cloud.ec2, [name for name in self._plan.subnets if name])
        ec2_fleet.make_template(cloud.ec2, specs[0], run=self._run, owner=cloud.owner)
        names = ", ".join(spec.instance_type for spec in specs)
        markets = ("spot", "on-demand")[: 1 + (self._plan.market != "spot")]
        for market in markets:
            if not (order.missing and order.wait(0)):
                return

            def call(token: str, market: str = market) -> ec2_fleet.FleetReply:
                return ec2_fleet.launch(
                    cloud.ec2_once,
                    specs,
                    zones,
                    run=self._run,
                    token=token,
                    count=order.missing,
                    spot=market == "spot",
                )

            fields = {"count": order.missing, "type": names, "market": market}
            catch = self._patiently(call, fields, order)
            for instance in catch.instances:
                order.take(instance)
            if catch.trouble:
                order.refused(catch.trouble, order.missing, names, f"{market} pools")

    def _patiently(
        self, call: Callable[[str], T], fields: dict[str, object], order: LaunchProgress
    ) -> T:
        """Send one request, again and again while AWS throttles or says nothing.

        It is told before: with its token a launch whose answer was lost is found.
        """
        token = uuid.uuid4().hex
        order.tell(Event("instance.requested", fields={**fields, "token": token}))
        failures, doubt = 0, False
        while True:
            try:
                return call(token)
            except CloudError as error:
                failures += 1
                seconds = capacity.pause(code(error), failures)
                doubt |= code(error) in ("", *ec2.INTERNAL)
                if seconds is not None and code(error) in capacity.THROTTLED:
                    told = {"seconds": seconds, "reason": code(error)}
                    order.tell(Event("launch.delayed", fields=told))
                if seconds is None or self._cloud.gone() or not order.wait(seconds):
                    self.unsure |= doubt
                    raise


def event(instance: ec2.Instance, index: int) -> Event:
    """Return the news that `instance` is launched, as the one of place `index`."""
    fields = {"type": instance.type, "zone": instance.zone, "spot": instance.spot}
    return Event("instance.launched", index, instance.id, fields)


def _too_few(order: LaunchProgress) -> CloudError:
    """Return why there are too few: AWS's first word, if nothing was launched."""
    launched, first, last = len(order.launched), order.trouble[0], order.trouble[-1]
    if not launched:
        return first
    least = "" if order.least == order.instances else f", at least {order.least}"
    message = (
        f"only {launched} of {order.instances} instances could be launched{least}: "
        f"{last}"
    )
    hint = f"--at-least {launched} takes what there is; {last.hint}"
    return CapacityError(message, hint=hint)
