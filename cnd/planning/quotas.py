"""The account's quotas of vCPUs, and how many instances they leave room for.

One rule: a quota that is not known here is not guessed; types under it are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnd.cloud.connection import Cloud
from cnd.cloud.failures import translated
from cnd.provision import access


@dataclass(frozen=True)
class Quota:
    """A quota of vCPUs for some families of instances."""

    name: str
    families: re.Pattern[str]  # how the names of their types begin
    on_demand: str  # its code in Service Quotas
    on_spot: str = ""  # likewise; "": not known here


# "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances" and "All Standard
# (...) Spot Instance Requests"; not hpc, dl, trn, mac, inf, u and others.  The same for
# "G and VT"; "Running On-Demand P instances".  Those two are often 0 in new accounts.
# Source: https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
QUOTAS = (
    Quota("", re.compile(r"([acdhimrtz]|im|is)\d"), "L-1216C47A", "L-34B43A08"),
    Quota("G and VT ", re.compile(r"(g|gr|vt)\d"), "L-DB2E81BA", "L-3819A6DF"),
    Quota("P ", re.compile(r"p\d"), "L-417A185B"),
)


@dataclass(frozen=True)
class Room:
    """What a quota leaves: in words, and as a number of instances by type."""

    code: str
    text: str
    room: Mapping[str, int]


def of_types(types: Sequence[str], *, on_spot: bool) -> dict[str, Quota]:
    """Return the quota of each type, as far as it is known."""
    return {
        name: quota
        for name in types
        for quota in QUOTAS
        if quota.families.match(name) and (quota.on_spot if on_spot else True)
    }


def look_up(cloud: Cloud, known: Mapping[str, Quota], *, on_spot: bool) -> list[Room]:
    """Return what each quota leaves for the types under it.

    Raises:
        CloudError: the cloud does not say.
    """
    return [
        _room(cloud, quota, [n for n, q in known.items() if q == quota], on_spot)
        for quota in dict.fromkeys(known.values())
    ]


def _room(cloud: Cloud, quota: Quota, types: Sequence[str], on_spot: bool) -> Room:
    code = quota.on_spot if on_spot else quota.on_demand
    client = cloud.clients.get("service-quotas")
    with translated(f"ask for the quota of {quota.name}vCPUs"):
        reply = client.get_service_quota(ServiceCode="ec2", QuotaCode=code)
        limit = int(reply["Quota"]["Value"])
    used = vcpus(
        instance
        for instance in running(cloud)
        if quota.families.match(instance["InstanceType"])
        and (instance.get("InstanceLifecycle") == "spot") == on_spot
    )
    room = {
        name: max(0, limit - used) // access.describe_type(cloud.ec2, name).vcpus
        for name in types
    }
    kind = f"{quota.name}spot vCPUs" if on_spot else f"{quota.name}vCPUs"
    largest = " or ".join(f"{n} x {name}" for name, n in room.items())
    return Room(code, f"{used} of {limit} {kind} in use: room for {largest}", room)


def running(cloud: Cloud) -> list[Any]:
    """Return all instances that run in the region, of CND or not, as EC2 lists them."""
    filters: Any = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    pages = cloud.ec2.get_paginator("describe_instances").paginate(Filters=filters)
    with translated("look what runs in the region"):
        return [
            instance
            for page in pages
            for reservation in page["Reservations"]
            for instance in reservation["Instances"]
        ]


def vcpus(instances: Iterable[Any]) -> int:
    """Return how many vCPUs instances have together."""
    options = [instance.get("CpuOptions", {}) for instance in instances]
    return sum(o.get("CoreCount", 1) * o.get("ThreadsPerCore", 1) for o in options)
