"""What a run is going to do, decided before anything is bought.

One rule: arithmetic only.  A `Plan` is frozen, checked and complete; what executes
it decides nothing any more.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import asdict, dataclass
from typing import Any

from cnd import pow as worker
from cnd.errors import UsageError

# The longest that an instance may take from RunInstances until its SSH answers;
# 20 to 30 s is usual on EC2 (measured by many, see the README), minutes are rare.
BOOT_ALLOWANCE = 300.0  # seconds
# What the end of a run may take: stop, logs, uploads, termination.
END_ALLOWANCE = 120.0  # seconds

# What the workers may be told to search with; "auto" is the fastest on each host.
KERNELS = (
    *("auto", "shani-avx512vl", "shani", "avx512", "avx2", "armv8"),
    *("portable", "scalar", "hashlib"),
)
IMAGES = ("ubuntu", "al2023", "debian")  # or the id of one: ami-...
# How instances learn what to do.  Up to this many, "auto" tells them over SSH: there
# what happens is known at once, by way of S3 seconds later.
BOOTSTRAPS = ("auto", "ssh", "user-data")
MOST_BY_SSH = 512
MAX_INSTANCES = 1000  # one RunInstances call gives no more than its token bucket
# The pre-signed URLs by which a fleet ends without us hold for a week at most.
MAX_LIFETIME = 7 * 86400.0  # seconds
MAX_TIME_LIMIT = MAX_LIFETIME - BOOT_ALLOWANCE - END_ALLOWANCE
BILLED_AT_LEAST = 60.0  # seconds an instance is paid for, however short its life


@dataclass(frozen=True)
class Plan:
    """One search on one fleet; instance i owns the nonces congruent to i mod N."""

    difficulty: int  # leading zero hex digits of the hash, 0..64
    instances: int  # N
    time_limit: float  # T, seconds of search
    block: str = worker.DEFAULT_BLOCK
    nonces: int = worker.DEFAULT_NONCES  # the space is range(nonces)
    instance_type: str = "t3.micro"
    kernel: str = "auto"  # or the name of one: see KERNELS
    keep: bool = False  # leave the fleet to its lifetime timer
    replace: bool = False  # launch a new instance for one that was lost
    image: str = "ubuntu"  # one of IMAGES, or ami-...
    user: str = ""  # who logs in; empty: whom such images have
    subnet: str = ""  # subnet-...; empty: AWS chooses a default one
    ssh_from: str = ""  # IPv4 CIDR that SSH is let in from; empty: the caller's /32
    bootstrap: str = "auto"  # one of BOOTSTRAPS
    usd_per_hour: float | None = None  # of one instance; None: not known

    def __post_init__(self) -> None:
        for i in (0, self.instances - 1):
            try:
                self.search(i)
            except ValueError as error:
                raise UsageError(str(error)) from error
        if not 1 <= self.instances <= MAX_INSTANCES:
            message = f"--n must be 1 to {MAX_INSTANCES}, not {self.instances}"
            raise UsageError(message)
        if not 0 < self.time_limit <= MAX_TIME_LIMIT:
            raise UsageError(
                f"--t must be more than 0 and at most {MAX_TIME_LIMIT:.0f} seconds "
                f"(a week in all), not {self.time_limit}"
            )
        if not re.fullmatch("(subnet-[0-9a-f]+)?", self.subnet):
            raise UsageError(f"--subnet must be subnet-..., not {self.subnet!r}")
        _check_bootstrap(self.bootstrap, self.ssh_from)
        if self.ssh_from:
            _check_range(self.ssh_from)
        if not re.fullmatch("([a-z_][a-z0-9_-]{0,31})?", self.user):
            raise UsageError(f"--user must be the name of a user, not {self.user!r}")
        if self.image not in IMAGES and not re.fullmatch("ami-[0-9a-f]+", self.image):
            names = ", ".join(IMAGES)
            raise UsageError(f"--image must be {names} or ami-..., not {self.image!r}")

    @property
    def unreached(self) -> bool:
        """Whether the instances work by their user data and S3, without SSH."""
        if self.bootstrap == "auto":
            return self.instances > MOST_BY_SSH
        return self.bootstrap == "user-data"

    @property
    def lifetime(self) -> float:
        """Seconds from boot until an instance ends itself, whatever happens."""
        return BOOT_ALLOWANCE + self.time_limit + END_ALLOWANCE

    @property
    def worst_case_usd(self) -> float | None:
        """What the fleet costs if every instance lives until its timer ends it.

        And if each is lost and replaced, where that is wanted.
        """
        most = 2 * self.instances if self.replace else self.instances
        return self.usd([self.lifetime] * most)

    def usd(self, lives: list[float]) -> float | None:
        """Return what instances cost that ran so many seconds each, if known."""
        if self.usd_per_hour is None:
            return None
        billed = sum(max(life, BILLED_AT_LEAST) for life in lives)
        return billed * self.usd_per_hour / 3600

    def search(self, index: int) -> worker.Search:
        """Return the residue class that instance `index` searches."""
        return worker.Search(
            self.block, self.difficulty, self.nonces, index, self.instances
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plan as results and events tell it."""
        return {
            **asdict(self),
            "lifetime": self.lifetime,
            "worst_case_usd": self.worst_case_usd,
        }


def _check_bootstrap(bootstrap: str, ssh_from: str) -> None:
    if bootstrap not in BOOTSTRAPS:
        names = ", ".join(BOOTSTRAPS)
        raise UsageError(f"--bootstrap must be {names}, not {bootstrap!r}")
    if ssh_from and bootstrap == "user-data":
        message = "--bootstrap user-data lets nobody in"
        raise UsageError(message, hint="leave out --ssh-from")


def _check_range(text: str) -> None:
    """Refuse what is no range of IPv4 addresses, and the whole world."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        message = f"--ssh-from must be a CIDR such as 192.0.2.0/24: {error}"
        raise UsageError(message) from error
    if network.prefixlen == 0:
        message = f"--ssh-from {text} lets the whole world in"
        raise UsageError(message, hint="say which addresses may: 192.0.2.0/24")


def class_size(nonces: int, index: int, instances: int) -> int:
    """Return how many of ``range(nonces)`` are congruent to `index` mod `instances`."""
    return max(0, (nonces - index + instances - 1) // instances)
