"""What a run will need from the account, checked before anything is bought.

One rule: a check changes nothing.  Each is one small function with a result of one
line: ok, a warning (it may fail, or it cannot be checked), or a fault and the way out.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import Any

from cnd import ec2, s3logs
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import ELSEWHERE, NETWORK, POLICY, QUOTA, code, translated
from cnd.errors import CloudError, UsageError
from cnd.model.catalog import PRICED
from cnd.model.plan import MARKETS, Plan
from cnd.planning import quotas, routes
from cnd.planning.forecast import LONGER, outlived
from cnd.provision import access, auto_scaling, ec2_fleet
from cnd.provision.capacity import REFUSALS
from cnd.provision.prepare import expected_spec
from cnd.transport.gateway import Gateway
from cnd.transport.keys import UserKey

OK, WARNING, FAULT = "ok", "warning", "fault"

# AWS refuses requests whose time is off by more than five minutes.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/signing-elements.html
SKEW_NOTED, SKEW_REFUSED = 60.0, 300.0  # seconds
# AWS Academy: sessions of four hours, two regions, nine instances, 32 vCPUs.
LAB_ROLES = ("voclabs", "LabRole")
LAB_REGIONS, LAB_INSTANCES, LAB_VCPUS = ("us-east-1", "us-west-2"), 9, 32
LAB_SESSION = 4 * 3600.0  # seconds
REFUSED = ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "403")
STALE = 365  # days, of the shipped prices
NO_INSTANCE = "i-00000000000000000"  # a valid id that no instance has
DRY_RUN = "dry"  # in place of a run's name


@dataclass(frozen=True)
class Check:
    """The result of a check: one line, and for a fault the way out."""

    name: str
    status: str  # OK, WARNING or FAULT
    text: str
    way_out: str = ""

    @property
    def line(self) -> str:
        way_out = f"; {self.way_out}" if self.way_out else ""
        return f"{self.status:<8} {self.name:<12} {self.text}{way_out}"


@dataclass(frozen=True)
class Case:
    """What is checked: a plan that is to run in an account."""

    cloud: Cloud
    plan: Plan
    key: UserKey
    bucket: str = ""  # the user's own; empty for CND's


CheckFunction = Callable[[Case], Check]


def examine(case: Case, checks: Sequence[CheckFunction]) -> list[Check]:
    """Return the results of all checks, in their order; they run in parallel."""

    def result(check: CheckFunction) -> Check:
        name = check.__name__
        try:
            return check(case)
        except CloudError as error:
            optional = check in OPTIONAL and code(error) in REFUSED
            status = WARNING if optional else FAULT
            return Check(name, status, str(error), error.hint or "")

    with ThreadPoolExecutor(len(checks), thread_name_prefix="check") as pool:
        return list(pool.map(result, checks))


# --- the caller


def credentials(case: Case) -> Check:
    """Whether they are valid for as long as the run may take."""
    plan, left = case.plan, case.cloud.clients.life_left()
    life = f"a run may take {plan.lifetime:.0f} s"
    if left is None:
        text = f"temporary, and their end is not known; {life}"
        return Check("credentials", WARNING, text, f"should they end: {outlived(plan)}")
    if left < plan.lifetime:
        text = f"they end in {left / 60:.0f} min, {life}; then {outlived(plan)}"
        # Without SSH all that instances get and send goes by URLs signed with them.
        status = FAULT if plan.without_ssh else WARNING
        return Check("credentials", status, text, LONGER)
    good = "they do not expire" if left == math.inf else f"good for {left / 60:.0f} min"
    return Check("credentials", OK, f"{good}; {life}")


def caller(case: Case) -> Check:
    """Which account pays; for a lab account, what is known of its limits."""
    cloud = case.cloud
    who = f"{cloud.owner} of account {cloud.account}"
    if not _is_lab(cloud):
        return Check("caller", OK, who)
    if excess := _lab_excess(cloud, case.plan):
        return Check("caller", FAULT, *excess)
    text = f"{who}: a lab account; its session ends after 4 hours, 32 vCPUs at most"
    return Check("caller", WARNING, text)


def _is_lab(cloud: Cloud) -> bool:
    return any(role in cloud.arn for role in LAB_ROLES)


def lab_excess(cloud: Cloud, plan: Plan) -> str:
    """Return what the lab that an account is of would terminate or cut short."""
    excess = _lab_excess(cloud, plan) if _is_lab(cloud) else None
    return excess[0] if excess else ""


def _lab_excess(cloud: Cloud, plan: Plan) -> tuple[str, str] | None:
    """Return what a lab would terminate or cut short, and the way out.

    AWS launches there what the lab then terminates: all of N counts, not `at_least`.
    """
    if cloud.region not in LAB_REGIONS:
        way_out = f"--region {LAB_REGIONS[0]}"
        return f"lab accounts cannot use {cloud.region}", way_out
    if plan.lifetime > LAB_SESSION:
        hours = f"{plan.lifetime / 3600:.1f} h"
        return f"a run of up to {hours}: a lab's session ends after 4 h", "less --t"
    running = quotas.running(cloud)
    if len(running) + plan.instances > LAB_INSTANCES:
        text = f"lab accounts may run {LAB_INSTANCES} instances, {len(running)} run"
        free = LAB_INSTANCES - len(running)
        return text, f"--n {free}" if free > 0 else "end some of them first"
    each = max(access.describe_type(cloud.ec2, name).vcpus for name in plan.types)
    if (used := quotas.vcpus(running)) + each * plan.instances > LAB_VCPUS:
        text = f"lab accounts may run {LAB_VCPUS} vCPUs, {used} are in use"
        return text, "fewer instances (--n), or a smaller --instance-type"
    return None


def region(case: Case) -> Check:
    """Which region, and whether the installed boto3 is new enough to know it."""
    cloud = case.cloud
    at = f" at {cloud.endpoint}" if cloud.endpoint else ""
    if not cloud.clients.knows(cloud.region):
        text = f"{cloud.region}{at} is newer than the installed boto3, or misspelt"
        return Check("region", WARNING, text, "pip install -U boto3")
    return Check("region", OK, f"{cloud.region}{at}")


def data(case: Case) -> Check:
    """How old the shipped data about AWS are."""
    today = dt.datetime.now(dt.timezone.utc).date()
    days = (today - dt.date.fromisoformat(PRICED)).days
    text = (
        f"botocore {metadata.version('botocore')} knows the calls; the shipped prices "
        f"are of {PRICED}, {days} days old"
    )
    if days > STALE:
        return Check("data", WARNING, text, "a newer CND")
    return Check("data", OK, text)


def clock(case: Case) -> Check:
    """Whether this machine's clock is near enough to the cloud's."""
    with translated("ask the cloud for the time"):
        reply = case.cloud.ec2.describe_vpcs()
        date = reply["ResponseMetadata"]["HTTPHeaders"].get("date", "")
        cloud_time = email.utils.parsedate_to_datetime(date) if date else None
    if cloud_time is None:
        return Check("clock", WARNING, "the cloud's reply has no date")
    skew = abs((dt.datetime.now(dt.timezone.utc) - cloud_time).total_seconds())
    text = f"{skew:.0f} s off the cloud's"
    if skew > SKEW_NOTED:
        status = FAULT if skew > SKEW_REFUSED else WARNING
        return Check("clock", status, text, "set it, by NTP for example")
    return Check("clock", OK, text)


# --- what can be launched, and where


def machine(case: Case) -> Check:
    """Whether the region has the instance types, and in which zones."""
    cloud, offered, lacking = case.cloud, [], []
    for name in case.plan.types:
        found = access.describe_type(cloud.ec2, name)
        if zones := access.zones(cloud.ec2, name):
            where = ", ".join(sorted(zones))
            offered.append(f"{name}, {found.vcpus} vCPUs, offered in {where}")
        else:
            lacking.append(f"no zone of {cloud.region} offers {name}")
    if lacking:
        status = WARNING if offered else FAULT
        return Check("machine", status, "; ".join([*lacking, *offered]), ELSEWHERE)
    return Check("machine", OK, "; ".join(offered))


def image(case: Case) -> Check:
    """Whether there is an image for the architecture of every type."""
    plan, cloud = case.plan, case.cloud
    found = {access.image(cloud, t, plan.image, plan.user) for t in plan.types}
    images = sorted(f"{each.id}, user {each.user}" for each in found)
    text = f"{plan.image}: {'; '.join(images)}"
    if plan.image not in access.SYSTEMS:
        # What arms the timer cannot be seen from outside.
        way_out = "it must have cloud-init and systemd: without them no timer ends it"
        return Check("image", WARNING, text, way_out)
    return Check("image", OK, text)


def network(case: Case) -> Check:
    """Whether there is a subnet in a zone that offers one of the instance types."""
    types = " or ".join(case.plan.types)
    offers = [access.zones(case.cloud.ec2, name) for name in case.plan.types]
    if not (zones := set().union(*offers)):
        text = f"no zone of {case.cloud.region} offers {types}"
        return Check("network", FAULT, text, ELSEWHERE)
    filters: Any = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    if case.plan.subnet:
        filters = {"SubnetIds": list(case.plan.subnets)}
    with translated("look up the subnets"):
        pages = case.cloud.ec2.get_paginator("describe_subnets").paginate(**filters)
        subnets = [
            routes.Subnet(s["SubnetId"], s["VpcId"], s["AvailabilityZone"])
            for page in pages
            for s in page["Subnets"]
        ]
    fit = [subnet for subnet in subnets if subnet.zone in zones]
    if not subnets:
        return Check("network", FAULT, "no default subnet", f"--subnet; or {NETWORK}")
    if not fit:
        text = f"no subnet in a zone that offers {types}"
        return Check("network", FAULT, text, "another --subnet or --instance-type")
    if trouble := routes.trouble(case.cloud.ec2, case.plan, fit):
        return Check("network", FAULT, *trouble)
    names = sorted(subnet.zone for subnet in fit)
    return Check("network", OK, f"subnets in {', '.join(names)}")


def launch(case: Case) -> Check:
    """Whether RunInstances would be allowed as it will be sent: by dry runs."""
    plan, cloud = case.plan, case.cloud
    fine = f"{plan.instances} x {', '.join(plan.types)} allowed"

    def tried(name: str) -> Check:
        spec = expected_spec(cloud, plan, case.key, name)
        ask = partial(ec2.try_launch, cloud.ec2, spec, run=DRY_RUN, owner=cloud.owner)
        counts = {"count": plan.instances, "least": plan.min_instances}
        return _dry("launch", fine, partial(ask, **counts), passed_over=REFUSALS)

    seen = [tried(name) for name in plan.types]
    faults = [check for check in seen if check.status == FAULT]
    refused = [check for check in seen if check.status == WARNING]
    if len(refused) == len(seen):  # no type is left to take instead
        return replace(refused[0], status=FAULT)
    return (faults or refused or seen)[0]


def capacity(case: Case) -> Check:
    """Whether the further calls that --spot and --hold need are allowed."""
    plan, client = case.plan, case.cloud.ec2
    needs = [] if plan.market == "on-demand" else ["EC2 Fleet"]
    if plan.hold:
        needs.append("Auto Scaling")
        auto_scaling.find(case.cloud)
    if not needs:
        return Check("capacity", OK, "on demand, by RunInstances")

    spec = expected_spec(case.cloud, plan, case.key, plan.instance_type)
    ask = partial(ec2_fleet.create_template, client, f"cnd-{DRY_RUN}", spec)
    named = {"run": DRY_RUN, "owner": case.cloud.owner}
    text = f"{' and '.join(needs)}, by a launch template; only that one can be tried"
    return _dry("capacity", text, partial(ask, **named, dry_run=True))


def terminate(case: Case) -> Check:
    """Whether TerminateInstances would be allowed, as far as that can be tried."""

    def ask() -> object:
        ids = [NO_INSTANCE]
        return case.cloud.ec2.terminate_instances(InstanceIds=ids, DryRun=True)

    seen = _dry("terminate", "allowed", ask)
    if seen.status == FAULT:
        # A policy with conditions on tags cannot be tried without an instance.
        return replace(seen, status=WARNING, text=f"not certain: {seen.text}")
    return seen


def quota(case: Case) -> Check:
    """How many instances the account's quotas of vCPUs leave room for."""
    plan = case.plan
    known = quotas.of_types(plan.types, on_spot=plan.market == "spot")
    if not known:
        text = f"{' and '.join(plan.types)}: a quota of its own, not looked at"
        return Check("quota", WARNING, text)
    try:
        found = quotas.look_up(case.cloud, known, on_spot=plan.market == "spot")
    except CloudError as error:
        return Check("quota", WARNING, f"not known: {error}")
    text = "; ".join(each.text for each in found)
    if plan.min_instances > max(n for each in found for n in each.room.values()):
        # No fault yet where another quota may apply.
        other = len(known) < len(plan.types) or plan.market == MARKETS[-1]
        status = WARNING if other else FAULT
        way_out = f"{QUOTA}: {' or '.join(each.code for each in found)}"
        return Check("quota", status, f"{text}, not {plan.min_instances}", way_out)
    return Check("quota", OK, text)


# --- what CND creates, or finds


def key_pair(case: Case) -> Check:
    """Whether CND's key pair is there, or may be imported."""
    client, name = case.cloud.ec2, access.key_name(case.key)
    if access.has_key_pair(client, case.key):
        return Check("key_pair", OK, name)
    ask = partial(access.import_key, client, case.key, dry_run=True)
    return _dry("key_pair", f"{name} will be imported", ask)


def ssh(case: Case) -> Check:
    """Which ranges the security group allows, and whether this machine's is one."""
    wanted = access.allowed_range(case.cloud, case.plan.ssh_from)
    client, subnet = case.cloud.ec2, case.plan.subnets[0]
    group = access.find_group(client, subnet)
    if group is None:
        text = f"a security group for {wanted} will be created"
        return _dry("ssh", text, lambda: access.try_group(client, subnet))
    if wanted not in group.ranges:
        text = f"{group.id}: {wanted} will be let in"
        owner = case.cloud.owner
        seen = _dry(
            "ssh",
            text,
            lambda: access.allow_ssh(client, group.id, wanted, owner, dry_run=True),
        )
        if seen.status != OK or not group.ranges:
            return seen
    others = sorted(set(group.ranges) - {wanted})
    if "0.0.0.0/0" in others:
        text = f"{group.id} lets every address in"
        return Check(
            "ssh",
            WARNING,
            text,
            "`fab clean` removes it, a run creates a new one",
        )
    if others:
        text = f"{group.id} lets in {', '.join(others)}, besides {wanted}"
        return Check("ssh", WARNING, text, "`fab clean` closes it to the others")
    return Check("ssh", OK, f"{group.id}: from {wanted} only")


def tags(case: Case) -> Check:
    """Whether instances may be tagged with their index; tried on one of CND's.

    The tags that a run needs are given in the launch, and tried with it.
    """
    live = ec2.find(case.cloud.ec2)
    if not live:
        return Check("tags", OK, "given in the launch")
    seen = _dry(
        "tags", "allowed", lambda: ec2.tag_index(case.cloud.ec2, live[0], dry_run=True)
    )
    if seen.status == FAULT:
        text = f"instances get no tag with their index: {seen.text}"
        return replace(seen, status=WARNING, text=text)
    return seen


def gateway(case: Case) -> Check:
    """Whether the gateway accepts the user's key."""
    where = case.plan.gateway
    if not where:
        return Check("gateway", OK, f"none: SSH goes to {case.plan.address} addresses")
    try:
        Gateway(where, case.key.path).check()
    except UsageError as error:
        return Check("gateway", FAULT, str(error), error.hint or "")
    return Check("gateway", OK, f"{where} accepts the login")


def bucket(case: Case) -> Check:
    """Whether the bucket for the logs is there, and this account's."""
    cloud = case.cloud
    name = case.bucket or s3logs.bucket_name(cloud.account, cloud.region)
    try:
        owner = "" if case.bucket else cloud.account
        there = s3logs.exists(cloud.s3, name, owner)
    except CloudError as error:
        text = f"{name}: this account may not use it ({code(error)})"
        return Check("bucket", FAULT, text, "another --bucket")
    if not there and case.bucket:
        text = f"no such bucket: {name}"
        return Check("bucket", FAULT, text, "create it, or leave out --bucket")
    return Check("bucket", OK, name if there else f"{name} will be created")


# All of them, and those that `start` waits for before it launches.
ALL: tuple[CheckFunction, ...] = (
    *(credentials, region, data, caller, clock, machine, image, network, launch),
    *(capacity, terminate, quota, key_pair, ssh, tags, gateway, bucket),
)
FAST: tuple[CheckFunction, ...] = (
    *(credentials, caller, network, launch, capacity, quota),
)
# A run does not need these calls; a user who may not make them gets a warning.
OPTIONAL: tuple[CheckFunction, ...] = (clock, key_pair)


def _dry(
    name: str,
    fine: str,
    ask: Callable[[], object],
    passed_over: Collection[str] = (),
) -> Check:
    """Return the result of a dry run: whether AWS would allow the call.

    A refusal in `passed_over` is a warning: a launch then takes the next type.
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html
    """
    try:
        with translated(f"{name}, by a dry run"):
            ask()
    except CloudError as error:
        reason = code(error)
        if reason == "DryRunOperation" or reason.startswith("InvalidInstanceID"):
            return Check(name, OK, fine)
        way_out = POLICY if reason in REFUSED else error.hint or ""
        status = WARNING if reason in passed_over else FAULT
        return Check(name, status, str(error), way_out)
    return Check(name, OK, fine)
