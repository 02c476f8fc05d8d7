"""Launching a fleet: one request after the other until it is complete, or cannot be.

One rule: `cnd.provision.capacity` decides what to request next.  Here an event is
emitted before each request, at once for each launched instance, and before each pause
for which AWS is the cause.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code
from cnd.errors import CapacityError, CloudError, CndError
from cnd.model.events import Emit, Event, trouble
from cnd.model.launch_spec import LaunchSpec
from cnd.model.plan import Plan
from cnd.provision import access, auto_scaling, capacity, ec2_fleet
from cnd.provision import user_data as boot_script
from cnd.provision.capacity import LaunchAnswer, LaunchRequest, Wanted
from cnd.provision.prepare import Provision
from cnd.provision.retry import again
from cnd.system.pauses import growing

T = TypeVar("T")

GROUP_LOOK = 5.0  # seconds between two polls of a group's activities
# Seconds between two polls for instances that a reply has not named, growing.
FIRST_LOOK, LAST_LOOK = 0.2, 2.0


@dataclass
class LaunchProgress:
    """A launch under way: what it is to achieve, and what it has achieved so far."""

    instances: int
    least: int  # with fewer the run does not start
    emit: Emit
    wait: Callable[[float], bool]  # for seconds; returns whether the run is to go on
    first: int = 0  # the index of the first instance
    launched: list[ec2.Instance] = field(default_factory=list)
    trouble: list[CloudError] = field(default_factory=list)

    @property
    def missing(self) -> int:
        return self.instances - len(self.launched)

    def take(self, instance: ec2.Instance) -> None:
        """Record a launched instance, and emit its event."""
        self.emit(event(instance, self.first + len(self.launched)))
        self.launched.append(instance)

    def refused(self, error: CloudError, count: int, what: str, where: str) -> None:
        """Record that a request for `count` instances was refused; emit its event."""
        self.trouble.append(error)
        fields = {"count": count, "type": what, "where": where}
        self.emit(Event("launch.refused", fields={**fields, "reason": code(error)}))


class Launcher:
    """Launches the instances of one run."""

    def __init__(self, cloud: Cloud, plan: Plan, run: str) -> None:
        self._cloud, self._plan, self._run = cloud, plan, run
        self._groupless = False  # whether AWS has refused to create a group
        self._refusal = ""  # the last reason of AWS why the group launches too few
        self._templates_at = -math.inf  # when they were made, on the monotonic clock
        self.unsure = False  # whether an interrupted request may have launched

    def launch(
        self,
        provision: Provision,
        count: int,
        *,
        least: int,
        emit: Emit,
        wait: Callable[[float], bool],
        first: int = 0,
    ) -> list[ec2.Instance]:
        """Launch `count` instances, or as many as are available, at least `least`.

        Each is emitted as `instance.launched`, with its index from `first` on.

        Args:
            wait: waits so many seconds; returns whether the run is to go on.

        Returns:
            What was launched; fewer than `least` only if the run is not to go on.

        Raises:
            CloudError: fewer than `least` are available.  Those emitted do exist.
        """
        progress = LaunchProgress(count, least, emit, wait, first)
        try:
            if self._plan.market == "on-demand":
                self._by_instances(provision, progress)
            else:
                self._by_fleet(provision, progress)
        except CndError:
            raise  # each request has its answer, or `unsure` is set already
        except BaseException:  # Ctrl-C, perhaps between a request and its answer
            self.unsure = True
            raise
        if len(progress.launched) < least and wait(0):
            raise _too_few(progress)
        return progress.launched

    def launch_group(self, provision: Provision, emit: Emit) -> None:
        """Let an Auto Scaling group launch the fleet, and replace what is lost.

        Raises:
            CloudError: the group was not created, or not filled.
        """
        cloud, plan, specs = self._cloud, self._plan, provision.specs
        if len({spec.image for spec in specs}) > 1:
            message = "--hold: the types need different images"
            raise CloudError(message, hint="types of one processor architecture")
        zones = access.subnets(cloud.ec2, [name for name in plan.subnets if name])
        fields = {"count": plan.instances, "type": ", ".join(plan.types)}
        group = auto_scaling.group_name(self._run)
        emit(Event("instance.requested", fields={**fields, "token": group}))
        self._make_templates(specs)
        on_spot, size = plan.market == "spot", plan.instances
        create = partial(auto_scaling.create, cloud, specs, zones, run=self._run)
        try:
            again(partial(create, count=size, spot=on_spot), hopeless=cloud.gone)
        except CloudError as error:
            self._groupless = code(error) not in ("", *ec2.INTERNAL)
            raise
        auto_scaling.fill(cloud, run=self._run, count=size, lifetime=plan.lifetime)

    def report_failures(
        self, emit: Emit, missing: Callable[[], int], wait: Callable[[float], bool]
    ) -> None:
        """Emit why the group launches too few, each of AWS's reasons once.

        Returns when `wait`, which waits so many seconds, returns False.
        """
        what, reported = ", ".join(self._plan.types), set[str]()
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
            for reason in seen.keys() - reported:
                emit(seen[reason])
            reported |= seen.keys()

    @property
    def nothing_launched(self) -> str:
        """Why a group launched nothing, as far as AWS has explained it."""
        why = f": {self._refusal}" if self._refusal else ""
        return f"nothing of it was launched{why}"

    @property
    def groups(self) -> list[str]:
        """The names of the Auto Scaling groups that launch for this run."""
        if not self._plan.hold or self._groupless:
            return []
        return [auto_scaling.group_name(self._run)]

    def clean_up(self) -> None:
        """Remove what launches created besides instances, which must be terminated.

        Raises:
            CloudError: it could not be removed, or AWS does not know yet what was just
                made: to be repeated.  It costs nothing.
        """
        if self._plan.market == "on-demand" and not self._plan.hold:
            return
        known_at = self._templates_at + sum(capacity.UNKNOWN_PAUSES)
        ec2_fleet.remove_templates(
            self._cloud.ec2,
            self._run,
            self._plan.types,
            are_new=lambda: time.monotonic() < known_at,
        )

    def _make_templates(self, specs: Sequence[LaunchSpec]) -> None:
        cloud, run = self._cloud, self._run
        ec2_fleet.make_templates(cloud.ec2, specs, run=run, owner=cloud.owner)
        self._templates_at = time.monotonic()

    def _by_instances(self, provision: Provision, progress: LaunchProgress) -> None:
        """Launch by RunInstances: place after place, type after type."""
        specs = {spec.instance_type: spec for spec in provision.specs}
        wanted = Wanted(
            progress.instances, progress.least, tuple(specs), self._plan.subnets
        )
        answers: list[LaunchAnswer] = []
        while progress.wait(0) and (request := capacity.next_request(wanted, answers)):
            try:
                new = self._ask(specs[request.type], request, progress)
            except CloudError as error:
                if code(error) not in capacity.REFUSALS:
                    raise
                where = request.subnet or "any zone"
                progress.refused(error, request.least, request.type, where)
                answers.append(LaunchAnswer(request, refusal=code(error)))
                if wanted.subnets == ("",) and code(error) in capacity.NO_ROOM:
                    zones = access.subnets(self._cloud.ec2)
                    wanted = replace(wanted, subnets=("", *zones))
                continue
            for instance in new:
                progress.take(instance)
            answers.append(LaunchAnswer(request, len(new)))

    def _ask(
        self, spec: LaunchSpec, request: LaunchRequest, progress: LaunchProgress
    ) -> list[ec2.Instance]:
        first = progress.first + len(progress.launched)
        user_data = boot_script.numbered(spec.user_data, first)
        now = time.time()  # a repeated request must be identical

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
        return self._patiently(call, fields, progress)

    def _by_fleet(self, provision: Provision, progress: LaunchProgress) -> None:
        """Launch by EC2 Fleet: on spot, and what is missing on demand, if allowed."""
        cloud, specs = self._cloud, provision.specs
        zones = access.subnets(cloud.ec2, [name for name in self._plan.subnets if name])
        self._make_templates(specs)
        for market in ("spot", "on-demand")[: 1 + (self._plan.market != "spot")]:
            failures: list[str] = []
            seconds: float | None = 0.0
            # A reply, too, may call unknown what was just made, or be throttled.
            while seconds is not None:
                if not (progress.missing and progress.wait(seconds)):
                    return
                reply = self._ask_fleet(specs, zones, market, progress)
                for instance in reply.instances:
                    progress.take(instance)
                failures.append(code(reply.trouble))
                seconds = capacity.pause(failures) if reply.trouble else None
            if reply.trouble:
                names = ", ".join(spec.instance_type for spec in specs)
                where = f"{market} pools"
                progress.refused(reply.trouble, progress.missing, names, where)

    def _ask_fleet(
        self,
        specs: Sequence[LaunchSpec],
        zones: Mapping[str, str],
        market: str,
        progress: LaunchProgress,
    ) -> ec2_fleet.FleetReply:
        """Request what is missing of one EC2 Fleet."""
        count, attempts = progress.missing, 0

        def call(token: str) -> ec2_fleet.FleetReply:
            nonlocal attempts
            attempts += 1
            return ec2_fleet.launch(
                self._cloud.ec2_for_fleets,
                specs,
                zones,
                run=self._run,
                token=token,
                count=count,
                spot=market == "spot",
            )

        names = ", ".join(spec.instance_type for spec in specs)
        fields = {"count": count, "type": names, "market": market}
        reply = self._patiently(call, fields, progress)
        if attempts == 1 or len(reply.instances) >= count:
            return reply
        return self._completed(reply, count, progress)

    def _completed(
        self, reply: ec2_fleet.FleetReply, count: int, progress: LaunchProgress
    ) -> ec2_fleet.FleetReply:
        """Return a reply to a repeated request with what the first one launched.

        AWS need not name it again, and lists it a while after the launch.  Before that
        is known nothing more may be bought.
        """
        deadline = time.monotonic() + self._cloud.listed_within
        pauses = growing(FIRST_LOOK, LAST_LOOK)
        while True:
            try:
                found = ec2_fleet.launched(self._cloud.ec2, self._run, reply)
            except CloudError:
                self.unsure = True
                raise
            if len(found) >= count or time.monotonic() >= deadline:
                break
            if not progress.wait(next(pauses)):
                self.unsure = True
                break
        trouble = reply.trouble if len(found) < count else None
        return replace(reply, instances=found, trouble=trouble)

    def _patiently(
        self,
        call: Callable[[str], T],
        fields: dict[str, object],
        progress: LaunchProgress,
    ) -> T:
        """Send one request, and repeat it while AWS throttles or gives no answer.

        Its event comes first: with its token a launch whose answer was lost is found.
        """
        token = uuid.uuid4().hex
        progress.emit(Event("instance.requested", fields={**fields, "token": token}))
        failures: list[str] = []
        while True:
            try:
                return call(token)
            except CloudError as error:
                failures.append(code(error))
                seconds = capacity.pause(failures)
                if seconds is not None and code(error) in capacity.DELAYS:
                    delay = {"seconds": seconds, "reason": code(error)}
                    progress.emit(Event("launch.delayed", fields=delay))
                if seconds is None or self._cloud.gone() or not progress.wait(seconds):
                    self.unsure |= bool({"", *ec2.INTERNAL} & {*failures})
                    raise


def event(instance: ec2.Instance, index: int) -> Event:
    """Return the event that `instance` was launched with the index `index`."""
    fields = {"type": instance.type, "zone": instance.zone, "spot": instance.spot}
    return Event("instance.launched", index, instance.id, fields)


def _too_few(progress: LaunchProgress) -> CloudError:
    """Return why there are too few: AWS's first refusal, if nothing was launched."""
    launched, first, last = (
        len(progress.launched),
        progress.trouble[0],
        progress.trouble[-1],
    )
    if not launched:
        return first
    least = (
        "" if progress.least == progress.instances else f", at least {progress.least}"
    )
    message = (
        f"only {launched} of {progress.instances} instances could be launched{least}: "
        f"{last}"
    )
    hint = f"--at-least {launched} takes what there is; {last.hint}"
    return CapacityError(message, hint=hint)
