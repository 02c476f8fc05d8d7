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

from cnd.cloud.failures import code, translated
from cnd.cloud.replies import UNREADABLE
from cnd.errors import CloudError, LeakError
from cnd.system.background import NotDone, Pool
from cnd.system.pauses import growing

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
REFUSED_PATIENCE = 30.0  # seconds: a role may get new credentials in time

FIRST_LOOK, LAST_LOOK = 0.05, 2.0  # seconds between two looks, growing
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


NONE_LISTED: Mapping[str, Instance] = {}


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
) -> list[Instance]:
    """Return the instances of `run`, or of every run, in order of run and index.

    `ids`, at most `FILTER_VALUES`, leaves out all others; an id that AWS does not list
    yet is no failure.
    """
    filters: list[FilterTypeDef] = [
        {"Name": "instance-state-name", "Values": list(states)},
        (
            {"Name": f"tag:{RUN_TAG}", "Values": [run]}
            if run
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


@dataclass(frozen=True)
class Patience:
    """For how long a termination is tried, and by which clock."""

    timeout: float = 300.0  # seconds until what was not seen terminated is a leak
    # Seconds for which refused calls are repeated; None: `REFUSED_PATIENCE`.
    refused: float | None = None
    # Seconds for which to go on polling although nothing is listed, where it is not
    # known what was launched.
    look: float = 0.0
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
    at_once: int = PARALLEL,
) -> list[Instance]:
    """Terminate every instance of `run` (None: of every run) and see it terminated.

    AWS is eventually consistent: an instance launched a second ago may not be
    listed yet.  Pass the ids that `launch` returned as `known`, so that those are
    terminated whether listed or not.  Whatever exception occurs, the termination is
    tried again until `patience.timeout` seconds have passed.

    Args:
        asked: ids whose termination was requested a moment ago, and is to be seen.
        already_ended: the ids that were terminated before this call.  If it is given,
            every other listed instance counts as terminated here, also one that
            another program terminated between two polls.
        seen: called once for each instance when it is seen terminated.  What it raises
            is raised again once all are.
        is_gone: whether the cloud has ceased to be, and its instances with it; asked
            when it does not answer.
        at_once: calls to be made side by side; with 1, no thread is needed.

    Returns:
        What was terminated, each as last described.

    Raises:
        LeakError: some were not seen terminated in time; it names them.
    """
    clock = patience.clock
    began = last_accepted = clock()  # `last_accepted`: when a call was last not refused
    refused = REFUSED_PATIENCE if patience.refused is None else patience.refused
    request = partial(request_termination, ec2, at_once=at_once)
    work = _Termination(ec2, run, {*known, *asked}, already_ended, seen, request)
    pauses = growing(FIRST_LOOK, LAST_LOOK, 1.5)
    # At once: to list hundreds takes a second.  It is requested again below.
    _attempt(lambda: request(known), None)
    while True:
        looked = clock()
        cause = work.poll(is_gone)
        look = 0.0 if work.cloud_gone else patience.look
        if not work.waiting and cause is None and clock() >= began + look:
            return work.result()
        if code(cause) not in REFUSALS:
            last_accepted = clock()
        if clock() >= min(began + patience.timeout, last_accepted + refused):
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
        self.cloud_gone = False  # and every instance with it
        self.bug: Exception | None = None  # the last that `seen` raised

    def poll(self, is_gone: Callable[[], bool]) -> Exception | None:
        """List the instances and request termination again; return the failure."""
        # If this fails, termination of the known ones is requested all the same.
        listed, cause = _attempt(partial(_listing, self._ec2, self._run), NONE_LISTED)
        self.waiting |= {i.id for i in listed.values() if i.state in EXISTING}
        if self._already_ended is not None:
            self.waiting |= (
                listed.keys() - set(self._already_ended) - self._ended.keys()
            )
        if cause and is_gone():
            listed = {i: _vanished(i, self._run) for i in self.waiting}
            cause, self.cloud_gone = None, True
        gone = _ended(listed, self.waiting)
        self.waiting -= {instance.id for instance in gone}
        self._ended |= {instance.id: instance for instance in gone}
        failure = _request_again(self._request, self.waiting, listed)
        for instance in gone:  # reported after the termination of the others
            self.bug = _attempt(partial(self._seen, instance), None)[1] or self.bug
        return cause or failure

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
