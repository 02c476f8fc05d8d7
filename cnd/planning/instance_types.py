"""What is known of an instance type in the cloud that is to be used.

One rule: a measured value is preferred to one looked up, and that to the shipped table;
what is not known stays unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import ELSEWHERE, code
from cnd.errors import CapacityError, CloudError, UsageError
from cnd.model.catalog import OFFERS, Price, Rate, has_gpu
from cnd.model.launch_spec import LaunchSpec
from cnd.model.plan import KERNELS, MARKETS, Plan
from cnd.model.result import Result
from cnd.planning import choice, free_tier, preflight, prices, quotas, rate_history
from cnd.planning.forecast import GPU_BOOT, USUAL_BOOT, Machine, Request
from cnd.provision import access, capacity
from cnd.system.processor import usable_cores

LOCAL_BOOT = 1.0  # seconds; measured on two cores, with eight hosts
AUTO = KERNELS[0]
FREE = Price(0.0, "local cloud")
# A rate that is so many times what was tested in the time was not measured.
FAR_OFF = 4.0
# Nonces that each instance that searched must have tested, in the mean: all kernels,
# hashlib included, test so many within milliseconds.  With fewer, the time is that of
# the worker's start: on a busy machine, a find after 8 nonces would teach "7 a second".
LEAST_TESTED = 1000
MOST_PRICED = 12  # types whose prices in the region are looked up, the best first
NOT_ALLOWED = "UnauthorizedOperation"
OUTSIDE = "types outside AWS's free plan, which this account is on"


def machine(
    cloud: Cloud | None,
    folder: Path,
    plan: Plan,
    *,
    measure: Callable[[], Rate | None] = lambda: None,
) -> Machine:
    """Return what is known of the instance type of `plan`, searching with its kernel.

    Args:
        cloud: None if the local one is meant and down.
        folder: the state folder.
        measure: returns the rate of this machine, for a local cloud without earlier
            runs.

    Raises:
        CloudError, UsageError: there is no such type.
    """
    name = plan.instance_type
    vcpus = _vcpus(cloud, name)
    past = rate_history.recall(folder, _key(cloud, name, plan.kernel))
    if cloud and cloud.name != "local":
        price = prices.on_demand(cloud, name)
        rate = past.rate if past else _estimate(plan)
        boot = past.boot if past else usual_boot(name)
        return Machine(name, vcpus, rate, price, boot)
    cores = usable_cores()
    cap = cloud.rate_cap if cloud else None
    rate = past.rate if past else None
    if not rate and (whole := measure()):
        share = whole.nonces_per_second * min(1.0, vcpus / cores)
        rate = Rate(min(share, cap or math.inf), whole.source)
    boot = past.boot if past else LOCAL_BOOT
    # Hosts share this machine, unless each is limited to less than its share.
    at_once = math.inf if cap else max(1.0, cores / vcpus)
    return Machine(name, vcpus, rate, FREE, boot, at_once=at_once)


def check_offered(cloud: Cloud | None, plan: Plan) -> None:
    """Refuse types that no zone of the region offers, as far as the user may list them.

    Raises:
        CloudError: no zone of the region offers any of them.
    """
    if cloud is None:
        return
    try:
        if any(access.zones(cloud.ec2, name) for name in plan.types):
            return
    except CloudError:
        return  # a user who may not list them learns it from the launch
    names = " or ".join(plan.types)
    message = f"no zone of {cloud.region} offers {names}"
    raise CapacityError(message, hint=ELSEWHERE)


def ranked(cloud: Cloud | None, request: Request) -> Request:
    """Return `request` with its instance types in order of price, and their prices."""
    if not request.plan.others:
        return request
    priced = {name: _usd_per_hour(cloud, name) for name in request.plan.types}
    (first, _), *rest = capacity.by_price(priced).items()
    return replace(
        request, plan=replace(request.plan, instance_type=first, others=dict(rest))
    )


def on_spot(cloud: Cloud | None, request: Request) -> Request:
    """Return `request` with the spot prices of its types, if it may use spot."""
    plan = request.plan
    if cloud is None or cloud.name == "local" or plan.market == MARKETS[0]:
        return request
    return replace(request, plan=replace(plan, spot=prices.spot(cloud, plan.types)))


def _usd_per_hour(cloud: Cloud | None, name: str) -> float | None:
    _vcpus(cloud, name)  # raises if there is no such type
    if cloud is None or cloud.name == "local":
        return FREE.usd_per_hour
    price = prices.on_demand(cloud, name)
    return price.usd_per_hour if price else None


def others(cloud: Cloud | None, folder: Path, kernel: str) -> list[Machine]:
    """Return the table's types, with what earlier runs on AWS have measured of them."""
    found = []
    for offer in OFFERS.values():
        rate = offer.rate if kernel == AUTO else None
        boot = usual_boot(offer.type)
        on_aws = cloud is not None and cloud.name != "local"
        key = _key(cloud, offer.type, kernel)
        if on_aws and (past := rate_history.recall(folder, key)):
            rate, boot = past.rate, past.boot
        found.append(Machine(offer.type, offer.vcpus, rate, offer.price, boot))
    return found


def choose(cloud: Cloud | None, folder: Path, request: Request) -> choice.Choice:
    """Return what `--instance-type auto` takes, by EC2's prices and known rates.

    Raises:
        UsageError: no known type can do what is asked for.
    """
    machines, now = others(cloud, folder, request.plan.kernel), dict[str, Price]()
    notes: tuple[str, ...] = ()
    if cloud and cloud.name != "local":
        free = _free_types(cloud)
        if free is not None:
            machines = [machine for machine in machines if machine.type in free]
            notes = (OUTSIDE,)
        machines, now = _priced_here(cloud, request, machines)
    fleets = choice.ranked(request, machines, now)
    found = choice.chosen(fleets, lambda fleet: _unfit(cloud, fleet.plan))
    return replace(found, passed_over=(*notes, *found.passed_over))


def _free_types(cloud: Cloud) -> set[str] | None:
    """Return the types that the account may launch on the free plan.

    None: it is not on that plan, as far as is known, or they cannot be listed.
    """
    try:
        return access.free_types(cloud.ec2) if free_tier.is_in(cloud) else None
    except CloudError:
        return None


def _priced_here(
    cloud: Cloud, request: Request, machines: Sequence[Machine]
) -> tuple[list[Machine], dict[str, Price]]:
    """Return the best machines, at the prices of the region, and their spot prices.

    Which ones are the best is decided by the table's prices, as each look-up takes a
    call; where the region's price is not known, the table's stays.
    """
    best = [fleet.machine for fleet in choice.ranked(request, machines)][:MOST_PRICED]
    best = best or list(machines)[:MOST_PRICED]
    with ThreadPoolExecutor(MOST_PRICED, thread_name_prefix="price") as pool:
        prices_here = pool.map(lambda each: prices.on_demand(cloud, each.type), best)
        here = [
            replace(machine, price=price or machine.price)
            for machine, price in zip(best, prices_here, strict=True)
        ]
    if request.plan.market == MARKETS[0]:
        return here, {}
    zones = prices.spot(cloud, [each.type for each in best])
    lowest = {name: prices.lowest(found) for name, found in zones.items()}
    return here, {name: price for name, price in lowest.items() if price}


def _unfit(cloud: Cloud | None, plan: Plan) -> str:
    """Return why a fleet cannot be launched in the region now; "" if it can.

    What the user may not look up does not count against it.
    """
    if cloud is None:
        return ""
    looks = (preflight.lab_excess, _no_zone, _no_room, _refused)
    for look in looks[-1:] if cloud.name == "local" else looks:
        try:
            if reason := look(cloud, plan):
                return reason
        except CloudError:
            continue
    return ""


def _no_zone(cloud: Cloud, plan: Plan) -> str:
    offered = access.zones(cloud.ec2, plan.instance_type)
    return "" if offered else f"no zone of {cloud.region} offers it"


def _no_room(cloud: Cloud, plan: Plan) -> str:
    on_spot = plan.market == MARKETS[1]
    known = quotas.of_types(plan.types, on_spot=on_spot)
    for each in quotas.look_up(cloud, known, on_spot=on_spot):
        if plan.min_instances > max(each.room.values()):
            return each.text
    return ""


def _refused(cloud: Cloud, plan: Plan) -> str:
    """Return why the cloud refuses a dry run: the account's plan, a policy, a quota."""
    name = plan.instance_type
    image = access.image(cloud, name, plan.image, plan.user).id
    spec = LaunchSpec(image, name, "", "", "", plan.lifetime, plan.subnets[0])
    counts = {"count": plan.instances, "least": plan.min_instances}
    try:
        ec2.try_launch(cloud.ec2, spec, run="dry", owner=cloud.owner, **counts)
    except CloudError as error:
        if code(error) in (*capacity.REFUSALS, NOT_ALLOWED):
            return f"the cloud refuses it ({code(error)})"
    return ""


def learn(
    folder: Path, cloud: Cloud, plan: Plan, machine: Machine, result: Result
) -> None:
    """Store how fast a run was; one without a search is ignored."""
    seconds = result.seconds
    if not result.hash_rate or not seconds.search or seconds.boot is None:
        return
    if {each["type"] for each in result.fleet} != {plan.instance_type}:
        return  # of several types together, each one's own rate is not known
    # A worker reports its own rate; its witnesses prove how much it has tested.
    tested = result.tested
    if tested is not None and result.hash_rate * seconds.search > FAR_OFF * tested:
        return
    # An early find leaves instances that never searched.
    searched = sum(bool(each["tested"]) for each in result.coverage)
    if tested is not None and tested < LEAST_TESTED * searched:
        return
    rate = result.hash_rate / max(1.0, min(searched, machine.at_once))
    rate_history.remember(
        folder,
        _key(cloud, plan.instance_type, plan.kernel),
        rate_history.Measured(rate, seconds.search, seconds.boot),
    )


def _key(cloud: Cloud | None, instance_type: str, kernel: str) -> str:
    if cloud is None or cloud.name == "local":
        cap = f"{cloud.rate_cap}" if cloud and cloud.rate_cap else ""
        return rate_history.key("local", cap, instance_type, kernel)
    return rate_history.key(cloud.name, cloud.account, instance_type, kernel)


def usual_boot(instance_type: str) -> float:
    """Return the seconds until an instance of a type searches, where none has yet."""
    return GPU_BOOT if has_gpu(instance_type) else USUAL_BOOT


def _estimate(plan: Plan) -> Rate | None:
    """Return the table's rate, which is that of the fastest kernel."""
    offer = OFFERS.get(plan.instance_type)
    return offer.rate if offer and plan.kernel == AUTO else None


def _vcpus(cloud: Cloud | None, instance_type: str) -> int:
    if offer := OFFERS.get(instance_type):
        return offer.vcpus
    if cloud:
        return access.describe_type(cloud.ec2, instance_type).vcpus
    message = f"--instance-type {instance_type!r} is not in the shipped table"
    raise UsageError(message, hint="`fab local up`, and all types are known")
