"""Token buckets, and the rates of EC2's API as AWS documents them.

One rule: pure values; the caller has the clock.

https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
The sizes and rates are those of its two tables, read in November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Limit:
    most: int  # tokens that a bucket holds
    rate: float  # tokens that are added each second


@dataclass(frozen=True)
class Bucket:
    """A bucket as it was at a time: it is full when it is made."""

    limit: Limit
    tokens: float
    at: float  # seconds, of the clock of the caller

    @classmethod
    def full(cls, limit: Limit, now: float) -> Bucket:
        return cls(limit, float(limit.most), now)

    def take(self, count: int, now: float) -> tuple[Bucket, bool]:
        """Return the bucket after a request for `count` tokens, and whether it passes.

        A refused request takes no token.
        """
        added = self.limit.rate * max(0.0, now - self.at)
        tokens = min(float(self.limit.most), self.tokens + added)
        if tokens < count:
            return replace(self, tokens=tokens, at=max(now, self.at)), False
        return replace(self, tokens=tokens - count, at=max(now, self.at)), True


# Request rates, "Request token bucket sizes and refill rates": each action has a bucket
# of its own, of the size of its category.  "Resource-intensive actions", such as
# AuthorizeSecurityGroupIngress, have the same as others that change something.
NON_MUTATING = Limit(100, 20)  # Describe..., Get..., List..., with a filter or pages
UNFILTERED = Limit(50, 10)  # a subset of them, asked for without a filter and pages
MUTATING = Limit(50, 5)
# "Uncategorized actions", of those that CND calls.
REQUESTS: Mapping[str, Limit] = {
    "CreateTags": Limit(100, 10),
    "DeleteTags": Limit(100, 10),
    "RunInstances": Limit(5, 2),
    "StartInstances": Limit(5, 2),
    "TerminateInstances": Limit(100, 5),
}
# Assumed: ids of instances count neither as a filter nor as pages.
UNFILTERED_ACTIONS = (
    "DescribeInstances",
    "DescribeInstanceStatus",
    "DescribeNetworkInterfaces",
    "DescribeSecurityGroups",
    "DescribeSnapshots",
    "DescribeSpotInstanceRequests",
    "DescribeVolumes",
)
# Resource rates, "Resource token bucket sizes and refill rates": a token an instance.
RESOURCES: Mapping[str, Limit] = {
    "RunInstances": Limit(1000, 2),
    "StartInstances": Limit(1000, 2),
    "StopInstances": Limit(1000, 20),
    "TerminateInstances": Limit(1000, 20),
}


def request_limit(action: str, parameters: Mapping[str, str]) -> Limit:
    """Return the limit of the requests of an action of EC2."""
    if action in REQUESTS:
        return REQUESTS[action]
    if not action.startswith(("Describe", "Get", "List", "Search")):
        return MUTATING
    narrowed = any(
        name.startswith("Filter.") or name in ("MaxResults", "NextToken")
        for name in parameters
    )
    return NON_MUTATING if narrowed or action not in UNFILTERED_ACTIONS else UNFILTERED


def cost(action: str, parameters: Mapping[str, str]) -> int:
    """Return how many tokens of its resource bucket a request takes."""
    if action == "RunInstances":
        count = parameters.get("MaxCount", "1")
        return int(count) if count.isdecimal() else 1
    return sum(name.startswith("InstanceId.") for name in parameters)


class Throttle:
    """The buckets of one account: of each region, action and kind."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str, str], Bucket] = {}

    def passes(
        self, region: str, action: str, parameters: Mapping[str, str], now: float
    ) -> bool:
        """Take the tokens of a request, if there are as many."""
        wanted = [("request", request_limit(action, parameters), 1)]
        if action in RESOURCES:
            wanted.append(("resource", RESOURCES[action], cost(action, parameters)))
        for kind, limit, count in wanted:
            # Requests with and without a filter have limits, and buckets, of their own.
            key = region, action, f"{kind}/{limit}"
            bucket = self._buckets.get(key) or Bucket.full(limit, now)
            self._buckets[key], passes = bucket.take(count, now)
            if not passes:
                return False
        return True
