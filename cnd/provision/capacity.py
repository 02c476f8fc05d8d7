"""Which launch to ask for next, given how the cloud has answered so far.

One rule: pure functions over frozen values.  `cnd.provision.launch` asks, keeps the
answers, and comes here for what is next; nothing here waits or calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cnd.ec2 import INTERNAL
from cnd.model.plan import Plan
from cnd.provision.ec2_fleet import NOT_YET

# AWS launches several requests of a hundred faster than one of five hundred, and lets
# five calls pass at once, then two a second: calls one after the other stay below that.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/launching-instance.html
# https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
BATCH = 100  # instances a call

# There is no room for this type in this zone or subnet; in another there may be.
NO_ROOM = frozenset(
    {
        "InsufficientFreeAddressesInSubnet",
        "InsufficientInstanceCapacity",
        "Unsupported",
        "UnfulfillableCapacity",
    }
)
# The account may have no more, whatever the zone; another type may be counted apart.
QUOTA = frozenset(
    {"InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "VcpuLimitExceeded"}
)
REFUSALS = NO_ROOM | QUOTA
THROTTLED = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException"})
# Seconds before the same request is sent again, in turn.  The first are what a bucket
# of requests that is refilled at two a second can need after a burst.
THROTTLED_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
# After an answer that was lost, or that says nothing: the client token makes it safe.
# Together longer than a network that changes, or wants a login, is in the way for.
UNSURE_PAUSES = (0.2, 0.6, 2.0, 5.0)


@dataclass(frozen=True)
class LaunchRequest:
    """One request: as many instances of a type, in a place, as can be had."""

    type: str
    subnet: str  # "": AWS chooses the zone
    least: int  # with fewer it is refused
    most: int


@dataclass(frozen=True)
class LaunchAnswer:
    """What came of a request."""

    request: LaunchRequest
    launched: int = 0
    refusal: str = ""  # AWS's error code, one of REFUSALS


@dataclass(frozen=True)
class Wanted:
    """What a launch is to come to."""

    instances: int
    least: int  # with fewer there is no run
    types: tuple[str, ...]  # in the order in which they are tried
    subnets: tuple[str, ...] = ("",)  # likewise


def next_request(
    wanted: Wanted, answers: Sequence[LaunchAnswer]
) -> LaunchRequest | None:
    """Return what to ask for now; None if all is there, or no more can be had.

    Type after type, the cheapest first: all that is missing in one place, whichever
    place that is, and else piece by piece, as much as each place has.
    """
    missing = wanted.instances - sum(answer.launched for answer in answers)
    if missing <= 0:
        return None
    hopeful = (
        request
        for request in _requests(wanted, min(missing, BATCH))
        if not any(_rules_out(answer, request, wanted) for answer in answers)
    )
    return next(hopeful, None)


def _requests(wanted: Wanted, most: int) -> Iterator[LaunchRequest]:
    named = tuple(filter(None, wanted.subnets)) or wanted.subnets
    for name in wanted.types:
        yield from (
            LaunchRequest(name, subnet, most, most) for subnet in wanted.subnets
        )
        yield from (LaunchRequest(name, subnet, 1, most) for subnet in named)


def _rules_out(answer: LaunchAnswer, request: LaunchRequest, wanted: Wanted) -> bool:
    """Whether an answer leaves no hope for a request."""
    past = answer.request
    if past.type != request.type:
        return False
    if answer.refusal in QUOTA:
        # Pieces of a fleet that must be whole would be paid for nothing.
        return past.least <= request.least or wanted.least == wanted.instances
    if past.subnet != request.subnet:
        return False
    if answer.refusal:
        return past.least <= request.least
    return answer.launched < past.most  # it has given all that it had


def pause(code: str, failures: int) -> float | None:
    """Return the seconds until a failed request is sent again; None: not again.

    Args:
        code: AWS's error code; "" where there was no answer.
        failures: how often this request has failed so far, 1 or more.
    """
    pauses: tuple[float, ...] = ()
    if code in THROTTLED:
        pauses = THROTTLED_PAUSES
    elif code in ("", *INTERNAL, *NOT_YET):
        pauses = UNSURE_PAUSES
    return pauses[failures - 1] if failures <= len(pauses) else None


def divided(plan: Plan, launched: int) -> Plan:
    """Return `plan` for the instances that could be had: N classes, no more."""
    return replace(plan, instances=launched, asked=plan.asked or plan.instances)


def by_price(prices: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return types with their prices, the cheapest first; unknown ones last, as given.

    Types of one price stay as they were given, too.
    """
    known = {name: usd for name, usd in prices.items() if usd is not None}
    cheapest = sorted(known, key=lambda name: known[name])
    unknown = [name for name in prices if name not in known]
    return {name: prices[name] for name in (*cheapest, *unknown)}
