"""EC2: launch, find, terminate.

One rule: a machine of CND is one that carries CND's tags, given in the very call
that launched it; no other machine is ever touched, and none of ours is called gone
before AWS was seen to say so.
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

TOOL_TAG = "cnd"  # on everything that CND makes besides instances
RUN_TAG = "cnd:run"
INDEX_TAG = "cnd:index"
OWNER_TAG = "cnd:owner"
DEADLINE_TAG = "cnd:deadline"  # UTC, ISO 8601: its own timer has ended it by then
SSH_PORT_TAG = "cnd:ssh-port"  # set by clouds whose hosts do not answer on 22

LIVE = ("pending", "running", "stopping", "stopped")
GOING = (*LIVE, "shutting-down")
ALL = (*GOING, "terminated")
GONE = ("stopping", "stopped", "shutting-down", "terminated")

# Codes by which AWS does not say whether it has done what was asked.
INTERNAL = (
    *("InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"),
    UNREADABLE,
)

# Codes by which AWS says that this caller will not get through, now or later.
REFUSALS = (
    *("AuthFailure", "ExpiredToken", "InvalidClientTokenId", "RequestExpired"),
    *("UnauthorizedOperation", "UnrecognizedClientException"),
)
REFUSED_PATIENCE = 30.0  # seconds: a role may get new credentials in time

FIRST_LOOK, LAST_LOOK = 0.05, 2.0  # seconds between two looks, growing
BATCH = 100  # ids a call; AWS takes up to 1000
ASKING = 8  # such calls at once
ASK_PATIENCE = 60.0  # seconds for an answer in another thread
ASKED = 200  # values a filter takes


@dataclass(frozen=True)
class Instance:
    """One machine of CND as the cloud last described it."""

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
    spot: bool = False  # AWS may take it back
    private: str | None = None  # its address inside its network


NOTHING: Mapping[str, Instance] = {}  # listed


@dataclass(frozen=True)
class LaunchSpec:
    """Everything that RunInstances needs but a count, a name and a token."""

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
    """Start `count` tagged instances, or as many as there is room for.

    Where that is fewer than `least` (None: `count`), none at all.

    Safe to repeat with the same `token` (one per attempt, in the journal before
    this call): a retry after a lost reply returns the same instances instead of
    paying for new ones.  Each machine ends itself `spec.lifetime` seconds after
    its boot even if nobody ever calls `terminate`.
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
    """Return what an instance that is launched now is tagged with."""
    now = dt.datetime.fromtimestamp(int(clock()), dt.timezone.utc)
    return {
        RUN_TAG: run,
        OWNER_TAG: owner,
        DEADLINE_TAG: (now + dt.timedelta(seconds=spec.lifetime)).isoformat(),
        "Name": f"cnd {run}",
    }


def tag_index(ec2: EC2Client, instance: Instance, *, dry_run: bool = False) -> None:
    """Write an instance's index on it, for people and scripts; CND needs it not.

    A dry run only asks, and fails in any case.
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

    `ids`, at most `ASKED`, leaves out all others; one that AWS does not list yet is
    no failure.
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
    """Return the ids of all that is tagged as of `run`, or of any run, in any state.

    A fortieth of the time that it takes to describe the instances themselves.
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


def sweep(ec2: EC2Client, *, run: str | None = None) -> set[str]:
    """Ask at once for the end of all that is tagged; return the ids of what goes.

    A first blow: what is refused, or not tagged yet, is left to `terminate`.
    """
    try:
        return _ask_to_go(ec2, tagged(ec2, run=run))[0]
    except CloudError:
        return set()


def request_termination(
    ec2: EC2Client, ids: Collection[str], at_once: int = ASKING
) -> None:
    """Ask for the end of `ids`; ids that are gone already are no failure."""
    _, refused = _ask_to_go(ec2, ids, at_once)
    if refused:
        raise refused


def _ask_to_go(
    ec2: EC2Client, ids: Collection[str], at_once: int = ASKING
) -> tuple[set[str], CloudError | None]:
    """Ask for the end of `ids`, in calls none of which waits for another's answer.

    Return those that lived until now, and the first failure.
    """
    names = sorted(ids)
    calls = [
        partial(_ask_batch, ec2, names[i : i + BATCH])
        for i in range(0, len(names), BATCH)
    ]
    going: set[str] = set()
    refused: CloudError | None = None
    for answer in _answers(calls, at_once):
        try:
            going |= answer()
        except CloudError as error:
            refused = refused or error
    return going, refused


def _answers(
    calls: Sequence[Callable[[], T]], at_once: int
) -> Sequence[Callable[[], T]]:
    """Return what gives the answer to each call; some are made in threads meanwhile."""
    if min(len(calls), at_once) <= 1:  # to need no thread: perhaps none is to be had
        return calls
    # Its threads are daemons: an interrupted caller does not wait for the answer.
    pool = Pool(at_once, "terminate")
    futures = [pool.submit(call) for call in calls]
    return [partial(_answer, *pair) for pair in zip(futures, calls, strict=True)]


def _answer(future: Future[T], call: Callable[[], T]) -> T:
    try:
        return future.result(ASK_PATIENCE)
    except (RuntimeError, MemoryError, NotDone):  # no thread could make the call
        return call()


def _ask_batch(ec2: EC2Client, ids: Sequence[str]) -> set[str]:
    with translated(f"terminate {len(ids)} instances"):
        reply = ec2.terminate_instances(InstanceIds=ids)
        return {
            change["InstanceId"]
            for change in reply.get("TerminatingInstances", ())
            if change["PreviousState"]["Name"] != ALL[-1]
        }


def terminate(
    ec2: EC2Client,
    *,
    run: str | None = None,
    known: Collection[str] = (),
    asked: Collection[str] = (),
    timeout: float = 300.0,
    look: float = 0.0,
    past: Collection[str] | None = None,
    refused: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    seen: Callable[[Instance], None] = lambda instance: None,
    is_gone: Callable[[], bool] = lambda: False,
    at_once: int = ASKING,
) -> list[Instance]:
    """Terminate every instance of `run` (None: of every run) and see it terminated.

    AWS is eventually consistent: an instance launched a second ago may not be
    listed yet.  Pass the ids that `launch` returned as `known`, so that those are
    terminated whether listed or not.  Whatever is raised on the way, it is tried again
    until `timeout` seconds have passed.

    Args:
        asked: ids that were asked to go a moment ago, and are to be seen gone.
        look: seconds for which to look on although nothing is listed, where it is
            not known what was launched.
        past: the ids that were terminated before, if whatever else is listed counts
            as terminated here: also what somebody else ended between two looks.
        refused: seconds for which calls that are refused are repeated; None:
            `REFUSED_PATIENCE`.
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
    began = clock()
    deadline = began + timeout
    patience = REFUSED_PATIENCE if refused is None else refused
    ended: dict[str, Instance] = {}
    waiting = {*known, *asked}
    bug: Exception | None = None
    last_accepted = began  # when a call was last not refused
    pauses = growing(FIRST_LOOK, LAST_LOOK, 1.5)
    # At once: to list hundreds takes a second.  It is asked for again below.
    _tried(lambda: request_termination(ec2, known, at_once), None)
    while True:
        looked = clock()
        # Those that are known can be told to go all the same if this fails.
        listed, cause = _tried(partial(_listing, ec2, run), NOTHING)
        waiting |= {i.id for i in listed.values() if i.state in GOING}
        if past is not None:
            waiting |= listed.keys() - set(past) - ended.keys()
        if cause and is_gone():
            listed, cause, look = {i: _vanished(i, run) for i in waiting}, None, 0.0
        gone = _ended(listed, waiting)
        waiting -= {instance.id for instance in gone}
        ended |= {instance.id: instance for instance in gone}
        failure = _request_again(ec2, waiting, listed, at_once)
        cause = cause or failure
        for instance in gone:  # told after the others were asked to go
            bug = _tried(partial(seen, instance), None)[1] or bug
        if not waiting and cause is None and clock() >= began + look:
            break
        if code(cause) not in REFUSALS:
            last_accepted = clock()
        if clock() >= min(deadline, last_accepted + patience):
            raise _leak(ec2, waiting, run) from cause or bug
        # A look at a large fleet takes long, here and there: rest for as long.
        sleep(max(next(pauses), clock() - looked))
    if bug:
        raise bug
    return sorted(ended.values(), key=lambda i: (i.run, i.index, i.id))


def _tried(work: Callable[[], T], otherwise: T) -> tuple[T, Exception | None]:
    """Return what `work` gives, or `otherwise` and what it raised instead.

    Of whatever kind: nothing but an interrupt keeps a termination from going on.
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
    """Return an instance that has ended with its cloud, which tells nothing of it."""
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
    ec2: EC2Client, waiting: set[str], listed: Mapping[str, Instance], at_once: int
) -> Exception | None:
    """Ask for those that do not go yet; return the failure.

    An id that is not listed may be listed in a moment.
    """
    asked = {i for i in waiting if i not in listed or listed[i].state in LIVE}
    _, refused = _tried(lambda: request_termination(ec2, asked, at_once), None)
    if code(refused) == "InvalidInstanceID.NotFound":
        asked &= listed.keys()
        _, refused = _tried(lambda: request_termination(ec2, asked, at_once), None)
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
    """Return tags as EC2 takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def by_run(instances: Iterable[Instance]) -> dict[str, list[Instance]]:
    """Return the instances grouped by their run, in the order given."""
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(instance.run, []).append(instance)
    return groups
