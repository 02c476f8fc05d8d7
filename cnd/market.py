"""What is known of an instance type in the cloud that is to be used.

One rule: measured goes before looked up, looked up before the shipped table, and what
nobody knows stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cnd import account, prices, rates
from cnd import pow as worker
from cnd.cloud import Cloud
from cnd.errors import UsageError
from cnd.forecast import USUAL_BOOT, Machine
from cnd.offers import OFFERS, Price, Rate
from cnd.plan import Plan
from cnd.result import Result

LOCAL_BOOT = 1.0  # seconds; measured on two cores, with eight hosts
FREE = Price(0.0, "embedded cloud")


def machine(
    cloud: Cloud | None,
    folder: Path,
    instance_type: str,
    *,
    measure: Callable[[], Rate | None] = lambda: None,
) -> Machine:
    """Return what is known of `instance_type`.

    Args:
        cloud: None if the embedded one is meant and down.
        folder: the state folder.
        measure: gives the rate of this machine, for an embedded cloud without a past.

    Raises:
        CloudError, UsageError: there is no such type.
    """
    vcpus = _vcpus(cloud, instance_type)
    past = rates.recall(folder, _key(cloud, instance_type))
    if cloud and cloud.name != "local":
        offer = OFFERS.get(instance_type)
        estimate = offer.rate if offer else None
        return Machine(
            instance_type,
            vcpus,
            past.rate if past else estimate,
            prices.on_demand(cloud, instance_type),
            past.boot if past else USUAL_BOOT,
        )
    cores = worker.usable_cores()
    rate = past.rate if past else None
    if not rate and (whole := measure()):
        share = min(1.0, vcpus / cores)
        rate = Rate(whole.nonces_per_second * share, whole.source)
    boot = past.boot if past else LOCAL_BOOT
    at_once = max(1.0, cores / vcpus)
    return Machine(instance_type, vcpus, rate, FREE, boot, at_once)


def learn(
    folder: Path, cloud: Cloud, plan: Plan, machine: Machine, result: Result
) -> None:
    """Remember how fast a run was; one without a search teaches nothing."""
    seconds = result.seconds
    if not result.hash_rate or not seconds.search or seconds.boot is None:
        return
    side_by_side = min(plan.instances, machine.at_once)
    rates.remember(
        folder,
        _key(cloud, plan.instance_type),
        rates.Measured(result.hash_rate / side_by_side, seconds.search, seconds.boot),
    )


def _key(cloud: Cloud | None, instance_type: str) -> str:
    if cloud is None or cloud.name == "local":
        return rates.key("local", "", instance_type)
    return rates.key(cloud.name, cloud.account, instance_type)


def _vcpus(cloud: Cloud | None, instance_type: str) -> int:
    if offer := OFFERS.get(instance_type):
        return offer.vcpus
    if cloud:
        return account.kind(cloud.ec2, instance_type).vcpus
    message = f"--instance-type {instance_type!r} is not in the shipped table"
    raise UsageError(message, hint="`fab local up`, and all types are known")
