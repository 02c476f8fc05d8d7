"""EC2: launch, find, terminate.

One rule: an instance of CND is one that carries CND's tags, given in the very call
that launched it; no other instance is ever touched, and none of CND's is reported as
terminated before AWS lists it so.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cnd.cloud.failures import translated
from cnd.cloud.replies import UNREADABLE
from cnd.errors import CloudError
from cnd.system.background import NotDone, Pool

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client
    from types_boto3_ec2.type_defs import (
        FilterTypeDef,
        InstanceTypeDef,
        TagTypeDef,
    )

T = TypeVar("T")

TOOL_TAG = "cnd"  # on everything that CND creates besides instances
RUN_TAG = "cnd:run"
INDEX_TAG = "cnd:index"
OWNER_TAG = "cnd:owner"
DEADLINE_TAG = "cnd:deadline"  # UTC, ISO 8601: its lifetime timer has ended it by then
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

# Codes by which AWS refuses this caller, now and later.
REFUSALS = (
    *("AuthFailure", "ExpiredToken", "InvalidClientTokenId", "RequestExpired"),
    *("UnauthorizedOperation", "UnrecognizedClientException"),
)

BATCH = 100  # ids a call; AWS takes up to 1000
PARALLEL = 8  # such calls at once
REPLY_PATIENCE = 60.0  # seconds for an answer in another thread
FILTER_VALUES = 200  # values a filter takes


@dataclass(frozen=True)
class Instance:
    """One instance of CND as the cloud last described it."""

    id: str
    run: str
    index: int  # its place in the fleet, 0..N-1
    owner: str
    type: str
    state: str  # one of ALL
    address: str | None  # public if it has one, else private
    ssh_port: int
    zone: str
    launched: dt.datetime  # with time zone
    deadline: str  # see DEADLINE_TAG
    spot: bool = False  # AWS may reclaim it
    private: str | None = None  # its address inside its network


@dataclass(frozen=True)
class LaunchSpec:
    """Everything that RunInstances needs except count, run and token."""

    image: str
    instance_type: str
    key_name: str
    group: str
    user_data: str
    lifetime: float  # seconds, as armed by the user data
    subnet: str = ""  # empty: AWS chooses a default one


def launch(
    ec2: EC2Client,
    spec: LaunchSpec,
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
    where: Any = {"SubnetId": spec.subnet} if spec.subnet else {}
    with translated(f"launch {count} x {spec.instance_type}"):
        reply = ec2.run_instances(
            **where,
            ImageId=spec.image,
            InstanceType=spec.instance_type,  # type: ignore[arg-type]  # any text
            MinCount=count if least is None else least,
            MaxCount=count,
            ClientToken=token,
            KeyName=spec.key_name,
            SecurityGroupIds=[spec.group],
            InstanceInitiatedShutdownBehavior="terminate",
            MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled"},
            UserData=spec.user_data,
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": tag_list(tags)},
                {"ResourceType": "volume", "Tags": tag_list(tags)},
            ],
        )
        found = [_instance(raw) for raw in reply["Instances"]]
        if len(found) < (count if least is None else least):
            raise ValueError(f"{len(found)} instances")  # it launches the least or none
        return found


def tags_of(
    spec: LaunchSpec,
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
    with translated("list the instances"):
        found = [
            _instance(raw)
            for page in ec2.get_paginator("describe_instances").paginate(
                Filters=filters
            )
            for reservation in page["Reservations"]
            for raw in reservation["Instances"]
        ]
    return sorted(found, key=lambda instance: (instance.run, instance.index))


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
    ec2: EC2Client, ids: Collection[str], at_once: int = PARALLEL
) -> None:
    """Request termination of `ids`; ids that are terminated already are no failure."""
    _, refused = _request_in_batches(ec2, ids, at_once)
    if refused:
        raise refused


def _request_in_batches(
    ec2: EC2Client, ids: Collection[str], at_once: int = PARALLEL
) -> tuple[set[str], CloudError | None]:
    """Request termination of `ids`, in calls that do not wait for each other.

    Return those that lived until now, and the first failure.
    """
    names = sorted(ids)
    calls = [
        partial(_request_batch, ec2, names[i : i + BATCH])
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


def _request_batch(ec2: EC2Client, ids: Sequence[str]) -> set[str]:
    with translated(f"terminate {len(ids)} instances"):
        reply = ec2.terminate_instances(InstanceIds=ids)
        return {
            change["InstanceId"]
            for change in reply.get("TerminatingInstances", ())
            if change["PreviousState"]["Name"] != ALL[-1]
        }


def _instance(raw: InstanceTypeDef) -> Instance:
    tags = {tag["Key"]: tag["Value"] for tag in raw.get("Tags", [])}
    index = tags.get(INDEX_TAG, "")
    address = raw.get("PublicIpAddress") or raw.get("PrivateIpAddress")
    return Instance(
        id=named(raw["InstanceId"]),
        run=tags.get(RUN_TAG, ""),
        index=int(index) if index.isdecimal() else raw.get("AmiLaunchIndex", 0),
        owner=tags.get(OWNER_TAG, ""),
        type=str(raw["InstanceType"]),
        state=str(raw["State"]["Name"]),
        address=address or None,
        ssh_port=int(tags.get(SSH_PORT_TAG) or 22),
        zone=raw.get("Placement", {}).get("AvailabilityZone", ""),
        launched=raw["LaunchTime"],
        deadline=tags.get(DEADLINE_TAG, ""),
        spot=raw.get("InstanceLifecycle") == "spot",
        private=raw.get("PrivateIpAddress") or None,
    )


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
