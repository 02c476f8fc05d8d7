"""Which launch to request next, given the cloud's answers so far.

One rule: pure functions over frozen values.  `cnd.provision.launch` sends the requests
and keeps the answers; nothing here waits or calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cnd.cloud.failures import FREE_PLAN
from cnd.ec2 import INTERNAL
from cnd.model.plan import Plan

# AWS launches several requests of a hundred faster than one of five hundred.  It takes
# five calls at once, then two a second: calls one after the other stay below that.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/launching-instance.html
# https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
BATCH = 100  # instances a call

# No capacity for this type in this zone or subnet; another one may have some.
NO_ROOM = frozenset(
    {
        "InsufficientFreeAddressesInSubnet",
        "InsufficientInstanceCapacity",
        "Unsupported",
        "UnfulfillableCapacity",
    }
)
# The account's quota is used up in every zone; another type may have its own quota.
QUOTA = frozenset(
    {"InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "VcpuLimitExceeded"}
)
# The account may not launch this type at all; another one perhaps.
FORBIDDEN = frozenset({FREE_PLAN})
REFUSALS = NO_ROOM | QUOTA | FORBIDDEN
THROTTLED = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException"})
# Seconds before the same request is sent again, in turn.  The first ones are what a
# token bucket that is refilled at two a second may need after a burst.
THROTTLED_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
# After an answer that was lost or unclear: the client token makes a repetition safe.
# Together they outlast a change of network, or a captive portal that comes in between.
UNSURE_PAUSES = (0.2, 0.6, 2.0, 5.0)
# What was made a moment ago may be unknown to the next calls: together half a minute.
# https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
UNKNOWN_YET = frozenset(
    {
        *("InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound"),
        *("InvalidKeyPair.NotFound", "InvalidInstanceID.NotFound"),
        *("InvalidLaunchTemplateName.NotFoundException",),
        *("InvalidLaunchTemplateId.NotFound",),
    }
)
DELAYS = THROTTLED | UNKNOWN_YET
UNKNOWN_PAUSES = (0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 5.0, 6.0, 7.0)

# S3 has not finished the removal of a bucket of this name, which may take an hour: a
# minute; or a new bucket is not known everywhere yet.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/delete-bucket.html
UNSETTLED_BUCKET: Mapping[str, tuple[float, ...]] = {
    "OperationAborted": (0.5, 1.5, 3.0, 5.0, 10.0, 15.0, 25.0),
    "NoSuchBucket": (0.5, 1.0, 2.0, 3.0, 4.0),
}


@dataclass(frozen=True)
class LaunchRequest:
    """One request: instances of one type in one place, as many as are available."""

    type: str
    subnet: str  # "": AWS chooses the zone
    least: int  # if fewer are available, none is launched
    most: int


@dataclass(frozen=True)
class LaunchAnswer:
    """The cloud's answer to a launch request."""

    request: LaunchRequest
    launched: int = 0
    refusal: str = ""  # AWS's error code, one of REFUSALS


@dataclass(frozen=True)
class Wanted:
    """What a launch is to achieve."""

    instances: int
    least: int  # with fewer the run does not start
    types: tuple[str, ...]  # in the order in which they are tried
    subnets: tuple[str, ...] = ("",)  # likewise


def next_request(
    wanted: Wanted, answers: Sequence[LaunchAnswer]
) -> LaunchRequest | None:
    """Return the next request; None if all is launched, or no more is available.

    Type after type, the cheapest first: all missing instances in one place, whichever
    it is, and else in parts, as many as each place has.
    """
    missing = wanted.instances - sum(answer.launched for answer in answers)
    if missing <= 0:
        return None
    open_requests = (
        request
        for request in _requests(wanted, min(missing, BATCH))
        if not any(_rules_out(answer, request, wanted) for answer in answers)
    )
    return next(open_requests, None)


def _requests(wanted: Wanted, most: int) -> Iterator[LaunchRequest]:
    named = tuple(filter(None, wanted.subnets)) or wanted.subnets
    for name in wanted.types:
        yield from (
            LaunchRequest(name, subnet, most, most) for subnet in wanted.subnets
        )
        yield from (LaunchRequest(name, subnet, 1, most) for subnet in named)


def _rules_out(answer: LaunchAnswer, request: LaunchRequest, wanted: Wanted) -> bool:
    """Whether `request` is certain to fail after an earlier answer."""
    earlier = answer.request
    if earlier.type != request.type:
        return False
    if answer.refusal in FORBIDDEN:
        return True
    if answer.refusal in QUOTA:
        # Parts of a fleet that must be complete would be paid for nothing.
        return earlier.least <= request.least or wanted.least == wanted.instances
    if earlier.subnet != request.subnet:
        return False
    if answer.refusal:
        return earlier.least <= request.least
    return answer.launched < earlier.most  # the place had no more


def pause(failures: Sequence[str]) -> float | None:
    """Return the seconds until a failed request is sent again; None: it is not.

    Each cause has its own patience: what was unknown at first may be throttled later.

    Args:
        failures: AWS's error codes of this request so far, the last one at the end; ""
            where there was no answer.
    """
    return _next_pause(failures, _pauses)


def bucket_pause(failures: Sequence[str]) -> float | None:
    """Return the same for a request about a bucket that is new, or being created."""
    return _next_pause(
        failures, lambda code: UNSETTLED_BUCKET.get(code) or _pauses(code)
    )


def _pauses(code: str) -> tuple[float, ...]:
    """Return the pauses after failures of the same cause as this one, in turn."""
    if code in THROTTLED:
        return THROTTLED_PAUSES
    if code in UNKNOWN_YET:
        return UNKNOWN_PAUSES
    return UNSURE_PAUSES if code in ("", *INTERNAL) else ()


def _next_pause(
    failures: Sequence[str], pauses_of: Callable[[str], tuple[float, ...]]
) -> float | None:
    pauses = pauses_of(failures[-1])
    alike = sum(pauses_of(code) == pauses for code in failures)
    return pauses[alike - 1] if alike <= len(pauses) else None


def divided(plan: Plan, launched: int) -> Plan:
    """Return `plan` for the instances that were launched: one class for each."""
    return replace(plan, instances=launched, asked=plan.asked or plan.instances)


def by_price(prices: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return types with their prices, the cheapest first; unknown prices come last.

    Types with equal or unknown prices keep their order.
    """
    known = {name: usd for name, usd in prices.items() if usd is not None}
    cheapest = sorted(known, key=lambda name: known[name])
    unknown = [name for name in prices if name not in known]
    return {name: prices[name] for name in (*cheapest, *unknown)}
