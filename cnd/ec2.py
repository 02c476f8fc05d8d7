"""EC2: launch, find, terminate.

One rule: an instance of CND is one that carries CND's tags, given in the very call
that launched it; no other instance is ever touched, and none of CND's is reported as
terminated before AWS lists it so.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cnd.cloud.failures import code, translated
from cnd.cloud.replies import UNREADABLE
from cnd.errors import CloudError
from cnd.system.background import NotDone, Pool

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client
    from types_boto3_ec2.type_defs import (
        FilterTypeDef,
        InstanceTypeDef,
        StateReasonTypeDef,
        TagTypeDef,
    )

T = TypeVar("T")

TOOL_TAG = "cnd"  # on everything that CND creates besides instances
RUN_TAG = "cnd:run"
# All runs that have searched on the instance, the newest first; only where there is
# more than one.
RUNS_TAG = "cnd:runs"
INDEX_TAG = "cnd:index"
OWNER_TAG = "cnd:owner"
DEADLINE_TAG = "cnd:deadline"  # UTC, ISO 8601: its lifetime timer has ended it by then
FLEET_TAG = "aws:ec2:fleet-id"  # AWS gives it to what an EC2 Fleet launches
SSH_PORT_TAG = "cnd:ssh-port"  # set by clouds whose hosts do not answer on port 22

LIVE = ("pending", "running", "stopping", "stopped")
EXISTING = (*LIVE, "shutting-down")
ALL = (*EXISTING, "terminated")
GONE = ("stopping", "stopped", "shutting-down", "terminated")

# Codes that leave open whether AWS has done what was requested.
INTERNAL = (
    *("InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"),
    UNREADABLE,
)

NOT_FOUND = "InvalidInstanceID.NotFound"  # its message names the ids
ID = re.compile(r"\bi-[0-9a-z]+")

# Codes by which AWS refuses this caller, now and later.
REFUSALS = (
    *("AuthFailure", "ExpiredToken", "InvalidClientTokenId", "RequestExpired"),
    *("UnauthorizedOperation", "UnrecognizedClientException"),
)

BATCH = 100  # ids a call; AWS takes up to 1000
PARALLEL = 8  # such calls at once
REPLY_PATIENCE = 60.0  # seconds for an answer in another thread
FILTER_VALUES = 200  # values a filter takes
MOST_REASON = 300  # characters of a reason that are kept

# Of TerminateInstances: end the instance at once, as if by its power switch.
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html
SKIP: Mapping[str, Any] = MappingProxyType({"SkipOsShutdown": True})
# How the codes begin by which a service refuses a parameter that it does not know.
UNKNOWN_PARAMETER = ("InvalidParameter", "UnknownParameter", "Unsupported")
MOST_RUNS = 12  # names of runs in a tag: of 20 characters each, and a value has 256


@dataclass(frozen=True)
class Instance:
    """One instance of CND as the cloud last described it."""

    id: str
    run: str
    index: int  # its place in the fleet, 0..N-1
    owner: str
    type: str
    state: str  # one of ALL
    address: str | None  # public; None: it has none, or none yet
    ssh_port: int
    zone: str
    launched: dt.datetime  # with time zone
    deadline: str  # see DEADLINE_TAG
    spot: bool = False  # AWS may reclaim it
    private: str | None = None  # its address inside its network
    fleet: str = ""  # id of the EC2 Fleet that launched it; "": none did
    reason: str = ""  # why AWS last changed its state; "": it does not say
    runs: tuple[str, ...] = ()  # that have searched on it, the newest first
    transition: str = ""  # who changed its state, and perhaps when, as AWS puts it

    def reached_at(self, kind: str) -> str | None:
        """Return its address of a kind, "public" or "private"; None: not there yet."""
        return self.private if kind == "private" else self.address


class Launchable(Protocol):
    """What instances are launched by: see `cnd.model.launch_spec`."""

    @property
    def instance_type(self) -> str:
        """The type of the instances."""

    @property
    def lifetime(self) -> float:
        """Seconds from boot until an instance ends itself."""

    def run_instances(
        self, tags: Mapping[str, str], *, least: int, most: int, token: str = ""
    ) -> dict[str, Any]:
        """Return the parameters of RunInstances."""


def launch(
    ec2: EC2Client,
    spec: Launchable,
    *,
    run: str,
    owner: str,
    token: str,
    count: int,
    least: int | None = None,
    clock: Callable[[], float] = time.time,
) -> list[Instance]:
    """Start `count` tagged instances, or as many as AWS has capacity for.

    If that is fewer than `least` (None: `count`), none is started.

    Safe to repeat with the same `token` (one per attempt, in the journal before
    this call): a retry after a lost reply returns the same instances instead of
    paying for new ones.  Each instance ends itself `spec.lifetime` seconds after
    its boot even if `terminate` is never called.
    """
    tags = tags_of(spec, run=run, owner=owner, clock=clock)
    least = count if least is None else least
    wanted = spec.run_instances(tags, least=least, most=count, token=token)
    with translated(f"launch {count} x {spec.instance_type}"):
        reply = ec2.run_instances(**wanted)
        found = [_instance(raw) for raw in reply["Instances"]]
        if len(found) < least:
            raise ValueError(f"{len(found)} instances")  # it launches the least or none
        return found


def try_launch(
    ec2: EC2Client, spec: Launchable, *, run: str, owner: str, count: int, least: int
) -> None:
    """Ask by a dry run whether `launch` would be allowed; it launches nothing.

    Raises:
        CloudError: in any case; its code is the answer.
    """
    tags = tags_of(spec, run=run, owner=owner)
    with translated(f"launch {count} x {spec.instance_type}, by a dry run"):
        wanted = spec.run_instances(tags, least=least, most=count)
        ec2.run_instances(DryRun=True, **wanted)


def tags_of(
    spec: Launchable,
    *,
    run: str,
    owner: str,
    clock: Callable[[], float] = time.time,
) -> dict[str, str]:
    """Return the tags of an instance that is launched now."""
    now = dt.datetime.fromtimestamp(int(clock()), dt.timezone.utc)
    return {
        RUN_TAG: run,
        OWNER_TAG: owner,
        DEADLINE_TAG: (now + dt.timedelta(seconds=spec.lifetime)).isoformat(),
        "Name": f"cnd {run}",
    }


def tag_index(ec2: EC2Client, instance: Instance, *, dry_run: bool = False) -> None:
    """Tag an instance with its index, for users and scripts; CND does not need it.

    A dry run changes nothing and always raises `CloudError`.
    """
    with translated(f"tag {instance.id}"):
        ec2.create_tags(
            Resources=[instance.id],
            Tags=tag_list({INDEX_TAG: str(instance.index)}),
            DryRun=dry_run,
        )


def shared_by(run: str, earlier: Sequence[str]) -> tuple[str, ...]:
    """Return the runs of a fleet on which `run` begins: as many as a tag names.

    The newest ones, and the first, which launched it.

    Args:
        earlier: those before, the newest first.
    """
    runs = (run, *earlier)
    return runs if len(runs) <= MOST_RUNS else (*runs[: MOST_RUNS - 1], runs[-1])


def hand_over(ec2: EC2Client, ids: Collection[str], runs: Sequence[str]) -> None:
    """Tag instances for the first of `runs`, on a fleet that the others had before."""
    tags = {RUN_TAG: runs[0], RUNS_TAG: " ".join(runs), "Name": f"cnd {runs[0]}"}
    with translated(f"tag {len(ids)} instances for another search"):
        ec2.create_tags(Resources=sorted(ids), Tags=tag_list(tags))


def tag_deadline(ec2: EC2Client, ids: Collection[str], deadline: dt.datetime) -> None:
    """Tag instances with the time by which their lifetime timers end them from now."""
    tags = {DEADLINE_TAG: deadline.isoformat(timespec="seconds")}
    with translated(f"tag {len(ids)} instances with their deadline"):
        ec2.create_tags(Resources=sorted(ids), Tags=tag_list(tags))


def heirs(ec2: EC2Client, run: str) -> list[str]:
    """Return the runs that search, or were the last to search, on the fleet of `run`.

    Not `run` itself: its own instances need no look.
    """
    shared = _described(
        ec2,
        [
            {"Name": "instance-state-name", "Values": list(EXISTING)},
            {"Name": "tag-key", "Values": [RUNS_TAG]},
        ],
    )
    return sorted({each.run for each in shared if run in each.runs} - {run})


def find(
    ec2: EC2Client,
    *,
    run: str | None = None,
    states: Sequence[str] = LIVE,
    ids: Sequence[str] = (),
    among: Sequence[str] = (),
) -> list[Instance]:
    """Return the instances of `run`, or of every run, in order of run and index.

    `ids`, at most `FILTER_VALUES`, leaves out all others; an id that AWS does not list
    yet is no failure.  So does `among`, as many names of runs.
    """
    names = [run] if run else list(among)
    filters: list[FilterTypeDef] = [
        {"Name": "instance-state-name", "Values": list(states)},
        (
            {"Name": f"tag:{RUN_TAG}", "Values": names}
            if names
            else {"Name": "tag-key", "Values": [RUN_TAG]}
        ),
    ]
    if ids:
        filters.append({"Name": "instance-id", "Values": list(ids)})
    found = _described(ec2, filters)
    return sorted(found, key=lambda instance: (instance.run, instance.index))


def _described(ec2: EC2Client, filters: list[FilterTypeDef]) -> list[Instance]:
    with translated("list the instances"):
        return [
            _instance(raw)
            for page in ec2.get_paginator("describe_instances").paginate(
                Filters=filters
            )
            for reservation in page["Reservations"]
            for raw in reservation["Instances"]
        ]


def look_up(ec2: EC2Client, ids: Collection[str]) -> list[Instance]:
    """Return the instances of these ids, in any state, also without CND's tags.

    Terminated instances lose their tags before they vanish.  What AWS does not list is
    left out.
    """
    names, found = sorted(ids), list[Instance]()
    for i in range(0, len(names), FILTER_VALUES):
        filters: list[FilterTypeDef] = [
            {"Name": "instance-id", "Values": names[i : i + FILTER_VALUES]}
        ]
        found += _described(ec2, filters)
    return found


def unknown(ec2: EC2Client, ids: Collection[str]) -> set[str]:
    """Return which of `ids` AWS does not know: it names them when asked for them."""
    names, absent = sorted(ids), set[str]()
    for i in range(0, len(names), BATCH):
        try:
            with translated("look for instances"):
                ec2.describe_instances(InstanceIds=names[i : i + BATCH])
        except CloudError as error:
            if code(error) != NOT_FOUND:
                raise
            absent |= set(names[i : i + BATCH]) & set(ID.findall(str(error)))
    return absent


def regions(ec2: EC2Client) -> list[str]:
    """Return the names of the regions that the account may use."""
    with translated("list the regions"):
        found = ec2.describe_regions()["Regions"]
        return sorted(region["RegionName"] for region in found)


def tagged(ec2: EC2Client, *, run: str | None = None) -> list[str]:
    """Return the ids of all instances tagged for `run`, or any run, in any state.

    It takes a fortieth of the time of describing the instances themselves.
    """
    filters: list[FilterTypeDef] = [
        {"Name": "resource-type", "Values": ["instance"]},
        {"Name": "key", "Values": [RUN_TAG]},
    ]
    if run:
        filters.append({"Name": "value", "Values": [run]})
    with translated("list the tags of the instances"):
        return [
            tag["ResourceId"]
            for page in ec2.get_paginator("describe_tags").paginate(Filters=filters)
            for tag in page["Tags"]
        ]


def terminate_tagged(ec2: EC2Client, *, run: str | None = None) -> set[str]:
    """Request termination of all tagged instances; return the ids that lived until now.

    A quick first attempt: what is refused, or not tagged yet, is left to `terminate`.
    """
    try:
        return _request_in_batches(ec2, tagged(ec2, run=run))[0]
    except CloudError:
        return set()


def request_termination(
    ec2: EC2Client,
    ids: Collection[str],
    at_once: int = PARALLEL,
    without_shutdown: Collection[str] = (),
) -> None:
    """Request termination of `ids`; ids that are terminated already are no failure.

    Args:
        without_shutdown: ids of instances whose system need not shut down in order,
            which may take minutes; where the cloud cannot do that, it does.
    """
    quick, refused = set(ids) & set(without_shutdown), None
    if quick and _can_skip_shutdown(ec2):
        _, refused = _request_in_batches(ec2, quick, at_once, SKIP)
    else:
        quick = set()
    if refused and code(refused).startswith(UNKNOWN_PARAMETER):
        quick, refused = set(), None
    _, failure = _request_in_batches(ec2, set(ids) - quick, at_once)
    if refused or failure:
        raise refused or failure  # type: ignore[misc]  # one of them is an error


def _can_skip_shutdown(ec2: EC2Client) -> bool:
    """Return whether the installed botocore knows how to ask for that."""
    shape = ec2.meta.service_model.operation_model("TerminateInstances").input_shape
    return shape is not None and SKIP.keys() <= shape.members.keys()


def _request_in_batches(
    ec2: EC2Client,
    ids: Collection[str],
    at_once: int = PARALLEL,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[set[str], CloudError | None]:
    """Request termination of `ids`, in calls that do not wait for each other.

    Return those that lived until now, and the first failure.
    """
    names = sorted(ids)
    calls = [
        partial(_request_batch, ec2, names[i : i + BATCH], options)
        for i in range(0, len(names), BATCH)
    ]
    lived: set[str] = set()
    refused: CloudError | None = None
    for answer in _replies(calls, at_once):
        try:
            lived |= answer()
        except CloudError as error:
            refused = refused or error
    return lived, refused


def _replies(
    calls: Sequence[Callable[[], T]], at_once: int
) -> Sequence[Callable[[], T]]:
    """Return what gives the reply to each call; some are made in threads meanwhile."""
    if min(len(calls), at_once) <= 1:  # to need no thread: perhaps none is to be had
        return calls
    # Its threads are daemons: an interrupted caller does not wait for the replies.
    pool = Pool(at_once, "terminate")
    futures = [pool.submit(call) for call in calls]
    return [partial(_reply, *pair) for pair in zip(futures, calls, strict=True)]


def _reply(future: Future[T], call: Callable[[], T]) -> T:
    try:
        return future.result(REPLY_PATIENCE)
    except (RuntimeError, MemoryError, NotDone):  # no thread could make the call
        return call()


def _request_batch(
    ec2: EC2Client, ids: Sequence[str], options: Mapping[str, Any]
) -> set[str]:
    with translated(f"terminate {len(ids)} instances"):
        reply = ec2.terminate_instances(InstanceIds=ids, **options)
        return {
            change["InstanceId"]
            for change in reply.get("TerminatingInstances", ())
            if change["PreviousState"]["Name"] != ALL[-1]
        }


def _instance(raw: InstanceTypeDef) -> Instance:
    tags = {tag["Key"]: tag["Value"] for tag in raw.get("Tags", [])}
    index = tags.get(INDEX_TAG, "")
    return Instance(
        id=named(raw["InstanceId"]),
        run=tags.get(RUN_TAG, ""),
        index=int(index) if index.isdecimal() else raw.get("AmiLaunchIndex", 0),
        owner=tags.get(OWNER_TAG, ""),
        type=str(raw["InstanceType"]),
        state=str(raw["State"]["Name"]),
        address=raw.get("PublicIpAddress") or None,
        ssh_port=int(tags.get(SSH_PORT_TAG) or 22),
        zone=raw.get("Placement", {}).get("AvailabilityZone", ""),
        launched=raw["LaunchTime"],
        deadline=tags.get(DEADLINE_TAG, ""),
        spot=raw.get("InstanceLifecycle") == "spot",
        private=raw.get("PrivateIpAddress") or None,
        fleet=tags.get(FLEET_TAG, ""),
        reason=_reason(raw.get("StateReason") or {}),
        runs=tuple(tags.get(RUNS_TAG, "").split()) or (tags.get(RUN_TAG, ""),),
        transition=raw.get("StateTransitionReason", ""),
    )


def _reason(given: StateReasonTypeDef) -> str:
    """Return AWS's reason for a state as one line, with its code.

    Its message may begin with the code: "Client.VolumeLimitExceeded: Volume limit
    exceeded".
    """
    name, message = given.get("Code", ""), " ".join(given.get("Message", "").split())
    told = message if message.startswith(name) else f"{name}: {message}"
    return told[:MOST_REASON]


def named(identity: str) -> str:
    """Return the id of an instance; ValueError for an empty one, which names none."""
    if not identity:
        raise ValueError("an instance without an id")
    return identity


def tag_list(tags: Mapping[str, str]) -> list[TagTypeDef]:
    """Return tags in EC2's form."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def by_run(instances: Iterable[Instance]) -> dict[str, list[Instance]]:
    """Return the instances grouped by their run, in the order given."""
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(instance.run, []).append(instance)
    return groups
