"""EC2 instances that are real hosts: moto's model, completed.

One rule: an instance's state is that of its host.  Only this file changes the state of
an instance: pending until SSH answers, shutting-down until the last process is gone.
Imported by the server only, with moto.

Also here, because moto ignores them: ClientToken, MaxCount, the client-token filter,
and the errors of AWS for actions that an instance's state does not allow.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from moto.ec2 import utils
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import instances as moto_instances
from moto.ec2.models.instances import InstanceState, StateReason
from moto.ec2.responses.instances import InstanceResponse

from cnd.errors import UsageError
from cnd.local.account_kinds import AccountKind
from cnd.local.api import accounts, images, memory, networks, templates
from cnd.local.api.addresses import inside
from cnd.local.api.faults import HostFault
from cnd.local.api.host_manager import Hardware, HostManager
from cnd.local.api.images import login_user
from cnd.local.api.weather.instances import InstanceTimes, calm
from cnd.local.host.guard import log
from cnd.local.host.wire import Message

SSH_PORT_TAG = "cnd:ssh-port"
# moto's default for a missing ClientToken.
NO_TOKEN = "ABCDE"
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html
CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
GOING = ("shutting-down", "terminated")
ACCOUNT = AccountKind()
BY_USER = StateReason(
    "Client.UserInitiatedShutdown: User initiated shutdown",
    "Client.UserInitiatedShutdown",
)
BY_INSTANCE = StateReason(
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
    "Client.InstanceInitiatedShutdown",
)
BY_SPOT = StateReason(
    "Server.SpotInstanceTermination: Spot instance termination",
    "Server.SpotInstanceTermination",
)
BY_ERROR = StateReason(
    "Server.InternalError: Internal error on launch", "Server.InternalError"
)

_Base = moto_instances.Instance


class HostInstance(_Base):
    """An EC2 instance with a host behind it."""

    # moto's metaclass registers its models by these.
    __module__ = _Base.__module__
    __qualname__ = _Base.__qualname__

    registry: Instances  # set by `install`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.phase = "pending"
        self.running_since: float | None = None  # monotonic time
        self.public_wanted: bool | None = None  # a public address; None: as the subnet
        self.address, self.ssh_port = self.registry.hosts.addresses.next()
        super().__init__(*args, **kwargs)
        self.add_tags({SSH_PORT_TAG: str(self.ssh_port)})

    @property
    def _state(self) -> InstanceState:
        """A copy: moto sets fields of it temporarily, which must not be visible."""
        return InstanceState(self.phase, CODES[self.phase])

    @_state.setter
    def _state(self, value: InstanceState) -> None:
        """Ignored: see above."""

    def get_tags(self) -> list[dict[str, str]]:
        """Return the same as moto's method, found by the instance's id.

        moto's method reads all tags, and compiles a pattern for each id: a search by
        tag took 0.5 s among 640 terminated instances; it takes 0.02 s now (measured).
        """
        own = dict(self.ec2_backend.tags.get(self.id, {}))  # a copy: it may change
        of = {"resource_id": self.id, "resource_type": "instance"}
        return [{**of, "key": key, "value": value} for key, value in own.items()]

    @property
    def private_ip(self) -> str | None:
        after = self.registry.times.private_address_after(self.id)
        if self.phase == "terminated" or not self._is_shown(after):
            return None
        # In calm weather one address serves both, so that a run can be tried by either.
        is_one = after is None and self._has_public_address()
        return self.address if is_one else inside(self.address)

    @property
    def private_ip_address(self) -> str | None:
        return self.private_ip

    @property
    def public_ip(self) -> str | None:
        after = self.registry.times.public_address_after(self.id)
        if self.phase in ("terminated", "stopped") or not self._is_shown(after):
            return None
        return self.address if self._has_public_address() else None

    def _is_shown(self, after: float | None) -> bool:
        """Tell whether an address is shown, so many seconds after "running"."""
        if after is None:
            return True
        since = self.running_since
        return since is not None and time.monotonic() >= since + after

    def _has_public_address(self) -> bool:
        if self.public_wanted is not None:
            return self.public_wanted
        if self.registry.account.public_addresses or self.subnet_id is None:
            return True
        return bool(self.ec2_backend.get_subnet(self.subnet_id).map_public_ip_on_launch)

    @property
    def public_ip_address(self) -> str | None:
        return self.public_ip

    @property
    def private_dns_name(self) -> str:
        return super().private_dns_name if self.private_ip else ""

    @property
    def vcpus(self) -> int:
        return accounts.vcpus(self.instance_type)

    @property
    def gpus(self) -> int:
        return accounts.gpus(self.instance_type)

    def boot(self) -> None:
        image = self.ec2_backend.amis.get(self.image_id)
        key = self.ec2_backend.key_pairs.get(self.key_name)
        with self.registry.lock:
            if self.phase != "pending":
                return  # terminated between its launch and here
            self.registry.hosts.boot(
                self.id,
                address=self.address,
                port=self.ssh_port,
                user=login_user(image.name if image else None),
                public_key=key.public_key if key else "",
                user_data=str(self.user_data or ""),
                hardware=Hardware(self.vcpus, self.gpus),
                launch_index=int(self.ami_launch_index),
            )

    def terminate(self, reason: StateReason = BY_USER) -> InstanceState:
        with self.registry.lock:
            before = self._state
            if self.phase in GOING:
                return before
            self.phase = "shutting-down"
        super().terminate()
        self._explain(reason)
        self.registry.hosts.kill([self.id])
        if reason is not BY_USER:  # else moto does so
            templates.notice(self)
        return before

    def stop(self, reason: StateReason = BY_USER) -> InstanceState:
        with self.registry.lock:
            before = self._state
            if self.phase in GOING:
                raise EC2ClientError(
                    "IncorrectInstanceState",
                    f"The instance '{self.id}' is not in a state from which it can be "
                    "stopped.",
                )
            if self.phase in ("stopping", "stopped"):
                return before
            self.phase = "stopping"
        super().stop()
        self._explain(reason)
        self.registry.hosts.kill([self.id], keep=True)
        return before

    def start(self) -> InstanceState:
        if self.phase in ("pending", "running"):
            return self._state
        raise _unsupported("A stopped instance of the local cloud stays stopped")

    def reboot(self) -> None:
        raise _unsupported("The local cloud cannot reboot an instance")

    def _explain(self, reason: StateReason) -> None:
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        self.state_reason = reason
        self._reason = f"User initiated ({now})" if reason is BY_USER else ""


@dataclass(frozen=True)
class _Launch:
    parameters: str  # JSON
    reservation: moto_instances.Reservation


class Instances:
    """The instances of all accounts and regions, and their changes of state."""

    def __init__(
        self,
        hosts: HostManager,
        times: InstanceTimes | None = None,
        account: AccountKind = ACCOUNT,
    ) -> None:
        self.hosts, self.times, self.account = hosts, times or calm(), account
        self.lock = threading.Lock()
        self._instances: dict[str, HostInstance] = {}
        self._launches: dict[tuple[str, str, str], _Launch] = {}
        self._ended: deque[tuple[float, HostInstance]] = deque()  # monotonic time
        self._slow: dict[HostInstance, float] = {}  # until when they shut down
        self._launching = threading.RLock()
        self._max_count = threading.local()

    def install(self) -> None:
        """Replace moto's model; every kind of launch goes through it."""
        registry, plain_run = self, moto_instances.InstanceBackend.run_instances
        plain_response = InstanceResponse.run_instances

        def run_instances(backend: Any, image_id: str, count: int, *a: Any, **k: Any):  # type: ignore[no-untyped-def]
            most = getattr(registry._max_count, "value", None) or count
            return registry._run(plain_run, backend, image_id, count, most, *a, **k)

        def respond(response: Any):  # type: ignore[no-untyped-def]
            # As many as MaxCount allows, and as there is memory for.
            registry._max_count.value = int(response._get_param("MaxCount", 0))
            try:
                return plain_response(response)
            finally:
                registry._max_count.value = None

        HostInstance.registry = registry
        moto_instances.Instance = HostInstance  # type: ignore[misc]
        moto_instances.InstanceBackend.run_instances = run_instances  # type: ignore[method-assign,assignment]
        InstanceResponse.run_instances = respond  # type: ignore[method-assign,assignment]
        InstanceResponse._validate_block_device_mapping = staticmethod(  # type: ignore[assignment,method-assign]
            images.check_mapping
        )
        utils.filter_dict_attribute_mapping["client-token"] = "client_token"
        utils.filter_dict_attribute_mapping["instance-lifecycle"] = "lifecycle"

    def _with_room(self, instance_type: str, least: int, most: int) -> int:
        """Return how many of `most` are possible; refuse if `least` are not.

        The account has a quota, and this machine its memory.
        """
        used = sum(i.vcpus for i in self._all() if i.phase in ("pending", "running"))
        quota = accounts.room(self.account, instance_type, used, least)
        most = most if quota is None else min(most, quota)
        room = memory.room_now(self.count()["pending"], self.hosts.host_bytes)
        if room is not None and room < least:
            raise EC2ClientError(
                "InsufficientInstanceCapacity",
                f"This machine has memory for {room} more hosts of the local cloud, "
                f"not for {least}.",
            )
        return most if room is None else min(most, room)

    def _run(
        self,
        plain_run: Any,
        backend: Any,
        image_id: str,
        least: int,
        most: int,
        *a: Any,
        **k: Any,
    ) -> moto_instances.Reservation:
        """Launch, or return the former launch with the same ClientToken."""
        token = k.get("client_token") or NO_TOKEN
        data: dict[str, Any] = {}
        if template := k.get("launch_template"):
            data = templates.data_of(backend, template)
            end = data.get(templates.BEHAVIOR)
            k.setdefault("instance_initiated_shutdown_behavior", end)
            volumes = list(data.get("BlockDeviceMappings") or [])
            k.setdefault("block_device_mappings", volumes)
        interfaces = k.get("nics") or data.get("NetworkInterfaces") or ()
        k |= networks.of_interfaces(interfaces)
        if mappings := k.pop("block_device_mappings", None):
            k["block_device_mappings"] = images.with_sizes(mappings)
        parameters = json.dumps([image_id, most, a, k], default=repr, sort_keys=True)
        key = (backend.account_id, backend.region_name, token)
        with self._launching:  # a retry waits for the original call
            if token != NO_TOKEN and key in self._launches:
                return self._repeated(self._launches[key], parameters)
            reservation: moto_instances.Reservation
            count = self._admitted(data, least, most, k)
            reservation = plain_run(backend, image_id, count, *a, **k)
            if token != NO_TOKEN:
                self._launches[key] = _Launch(parameters, reservation)
            self._instances |= {i.id: i for i in reservation.instances}  # type: ignore[misc]
            for each in reservation.instances:
                each.public_wanted = templates.public_wanted(interfaces)  # type: ignore[attr-defined]
                self.times.launched(each.id)
        for instance in reservation.instances:
            instance.boot()  # type: ignore[attr-defined]
        self._end_beyond_limit()
        return reservation

    def _admitted(
        self, data: dict[str, Any], least: int, most: int, k: dict[str, Any]
    ) -> int:
        """Return how many to launch; refuse what the account does not allow.

        Args:
            data: of the launch template, if there is one.
            k: the parameters of the launch.
        """
        by_template = k.get("is_instance_type_default") and data.get("InstanceType")
        kind = str(by_template or k.get("instance_type", ""))
        accounts.check_type(self.account, kind)
        if not (k.get("fleet_id") or k.get("spot_fleet_id")):  # they are checked whole
            options = k.get("metadata_options") or data.get("MetadataOptions")
            accounts.check_tokens(self.account, options)
        return self._with_room(kind, least, most)

    def _end_beyond_limit(self) -> None:
        """Terminate the newest instances that are more than the account may have."""
        if (most := self.account.instances) is None:
            return
        alive = [i for i in self._all() if i.phase in ("pending", "running")]
        for instance in alive[most:]:
            instance.terminate()

    def _repeated(self, launch: _Launch, parameters: str) -> moto_instances.Reservation:
        if launch.parameters != parameters:
            raise EC2ClientError(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments "
                "used in previous request(s).",
            )
        if all(instance.state in GOING for instance in launch.reservation.instances):
            raise EC2ClientError(
                "IdempotentInstanceTerminated",
                "The instances launched with this client token are terminated.",
            )
        return launch.reservation

    def handle_report(self, report: Message) -> None:
        """Change the state of an instance as its host reports."""
        instance = self._instances.get(report["id"])
        if instance is None:
            return
        kind = report["kind"]
        if kind == "up":
            self._move(instance, {"pending": "running"})
        elif kind == "down":
            self._end(instance)
        elif kind == "poweroff":
            behavior = instance.instance_initiated_shutdown_behavior
            end = instance.terminate if behavior == "terminate" else instance.stop
            end(BY_INSTANCE)
        elif kind == "lost":
            log(f"{instance.id}: host died: {report}")
            instance.terminate(BY_ERROR)

    def apply_fault(self, fault: HostFault) -> None:
        """Apply a fault to a host; UsageError if there is no such host."""
        if fault.kind != "interrupt":
            self.hosts.apply_fault(fault)
            return
        instance = self._instances.get(fault.host)
        if instance is None or instance.phase in GOING:
            raise UsageError(f"no host is up with the id {fault.host!r}")
        self.hosts.give_notice(fault)
        timer = threading.Timer(fault.seconds, instance.terminate, [BY_SPOT])
        timer.daemon = True
        timer.start()

    def count(self) -> Counter[str]:
        """Return the number of instances in each state."""
        return Counter(instance.phase for instance in self._all())

    def _end(self, instance: HostInstance) -> None:
        """Let an instance whose host is gone have ended, at once or later."""
        seconds = self.times.shutdown_seconds(instance.id)
        if seconds and instance.phase == "shutting-down":
            self._slow[instance] = time.monotonic() + seconds
        else:
            self._move(instance, {"shutting-down": "terminated", "stopping": "stopped"})

    def end_slow_ones(self) -> None:
        """Let instances have ended whose slow shutdown is over, or is skipped now."""
        for instance, due in list(self._slow.items()):
            skipped = not self.times.shutdown_seconds(instance.id)
            if skipped or time.monotonic() >= due:
                del self._slow[instance]
                self._move(instance, {"shutting-down": "terminated"})

    def forget(self, seconds: float) -> None:
        """Remove instances terminated `seconds` ago or earlier, as AWS does."""
        gone = set()
        while self._ended and self._ended[0][0] <= time.monotonic() - seconds:
            _, instance = self._ended.popleft()
            gone.add(instance)
        if self.times:
            gone |= self._forgotten_early()
        if not gone:
            return
        with self._launching:
            for backend in {instance.ec2_backend for instance in gone}:
                for id, reservation in list(backend.reservations.items()):
                    left = [i for i in reservation.instances if i not in gone]
                    reservation.instances = left  # a new list: a thread may read it
                    if not left:
                        del backend.reservations[id]
            for instance in gone:
                instance.ec2_backend.tags.pop(instance.id, None)
                del self._instances[instance.id]

    def _forgotten_early(self) -> set[HostInstance]:
        """Take away the tags, and return the instances, that the weather forgets."""
        gone = set()
        for ended, instance in list(self._ended):
            seconds = time.monotonic() - ended
            if seconds >= self.times.loses_tags_after(instance.id):
                instance.ec2_backend.tags.pop(instance.id, None)
            if seconds >= self.times.listed_for(instance.id):
                self._ended.remove((ended, instance))
                gone.add(instance)
        return gone

    def keep_schedules(self) -> None:
        """Execute the scheduled actions of Auto Scaling groups that are due."""
        templates.keep_schedules()

    def _all(self) -> Iterable[HostInstance]:
        return list(self._instances.values())

    def _move(self, instance: HostInstance, states: dict[str, str]) -> None:
        with self.lock:
            before = instance.phase
            instance.phase = states.get(before, before)
            if instance.phase == "running" and before != "running":
                instance.running_since = time.monotonic()
            if instance.phase == "terminated" and before != "terminated":
                self._ended.append((time.monotonic(), instance))


def _unsupported(message: str) -> EC2ClientError:
    return EC2ClientError("UnsupportedOperation", message)
