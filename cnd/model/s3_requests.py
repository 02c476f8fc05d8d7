"""How often instances without SSH talk to S3, and what these requests cost.

One rule: arithmetic only; the rates that the instances keep to are those that a plan's
price counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# S3 takes some thousand requests a second (3500 PUT and 5500 GET for one prefix), and
# each costs: see docs/scale.md.
POLLS_PER_SECOND = 500.0  # by all instances of a run together
FASTEST_POLL, FASTEST_REPORT = 1.0, 5.0  # seconds
# Polls of the whole fleet for each of its reports: a report, which is written and read,
# costs more.
LOOKS_TO_A_REPORT = 10
# The shortest time between two looks at a worker, or of the orchestrator at reports.
FASTEST_LOOK = 0.5  # seconds


@dataclass(frozen=True)
class PollRates:
    """How often each instance talks to S3."""

    poll: float  # seconds between two looks for the orchestrator's message
    every: float  # seconds between two reports of a worker without news

    @property
    def look(self) -> float:
        """Seconds between looks: of an agent at its worker, of this process at reports.

        A find is reported at once, that is after one look of each.
        """
        return max(FASTEST_LOOK, self.poll / 4)

    @property
    def silence(self) -> float:
        """Seconds without a report until the host of a worker counts as lost."""
        return 3 * self.every + 5.0


def pace(instances: int, polls_per_second: float) -> PollRates:
    """Return each instance's rates, so that the whole fleet keeps within its limits."""
    return PollRates(
        poll=max(FASTEST_POLL, instances / polls_per_second),
        every=max(FASTEST_REPORT, LOOKS_TO_A_REPORT * instances / polls_per_second),
    )


# USD a request, S3 Standard, us-east-1: GET; PUT, POST and LIST.
# Source: https://aws.amazon.com/s3/pricing/
READ_USD, WRITE_USD = 0.0004 / 1000, 0.005 / 1000
# How many times as much the most expensive region asks: 0.007 USD for 1000 PUT in
# sa-east-1.  The worst case counts with it.
DEAREST = 1.4
LISTED_AT_ONCE = 1000  # objects a LIST returns


def usd_per_hour(instances: int) -> float:
    """Return what the requests cost an hour, in USD, for one of so many instances.

    That of the orchestrator, which lists and reads their reports, is divided among
    them.
    """
    rates = pace(instances, POLLS_PER_SECOND)
    lists = math.ceil(instances / LISTED_AT_ONCE) / rates.look / instances
    reads = 1 / rates.poll + 1 / rates.every
    writes = 1 / rates.every + lists
    return 3600 * (reads * READ_USD + writes * WRITE_USD)
