"""What a run is going to do, decided before anything is bought.

One rule: arithmetic only.  A `Plan` is frozen, checked and complete; what executes
it decides nothing any more.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cnd import pow as worker
from cnd.errors import UsageError
from cnd.model import s3_requests
from cnd.model.pieces import Owners, Piece, members, whole_classes

# The longest that an instance may take from RunInstances until its SSH answers;
# 20 to 30 s is usual on EC2 (measured by many, see the README), minutes are rare: bare
# metal takes up to 20, and emulated machines on a busy computer may, too.
BOOT_ALLOWANCE = 300.0  # seconds
# What the end of a run may take: stop, logs, uploads, termination.
END_ALLOWANCE = 120.0  # seconds
# Instances with GPUs have a large image, whose disk is slow at first.
GPU_BOOT_ALLOWANCE = 900.0  # seconds

# The bounds of a search, so that users of plans need not import the worker.
DEFAULT_BLOCK = worker.DEFAULT_BLOCK
MAX_NONCES = worker.MAX_NONCES
HASH_DIGITS = worker.HASH_DIGITS  # of a hash, in hex

# What the workers may be set to search with; "auto" is the fastest on each host.
KERNELS = (
    *("auto", "shani-avx512vl", "shani", "avx512", "avx2", "armv8"),
    *("portable", "scalar", "hashlib", "opencl"),
)
# Or the id of one: ami-...  "gpu" has a driver for NVIDIA's; "auto": by instance type.
IMAGES = ("ubuntu", "al2023", "debian", "gpu", "auto")
# How instances get their orders.  Up to `MOST_BY_SSH` instances "auto" means SSH, where
# events arrive at once; by S3 they arrive seconds later.
BOOTSTRAPS = ("auto", "ssh", "user-data")
MOST_BY_SSH = 512
ADDRESSES = ("public", "private")
MARKETS = ("on-demand", "spot", "spot-or-on-demand")
MAX_INSTANCES = 1000  # one RunInstances call gives no more than its token bucket
# The pre-signed URLs with which orphans deliver their logs hold for a week at most.
MAX_LIFETIME = 7 * 86400.0  # seconds
MAX_BOOT_ALLOWANCE = 3600.0  # seconds
MAX_TIME_LIMIT = MAX_LIFETIME - MAX_BOOT_ALLOWANCE - END_ALLOWANCE
BILLED_AT_LEAST = 60.0  # seconds an instance is paid for, however short its life


@dataclass(frozen=True)
class Usage:
    """How long an instance ran, and what its price depends on."""

    seconds: float
    type: str = ""  # "": the plan's first one
    zone: str = ""
    spot: bool = False


@dataclass(frozen=True)
class Plan:
    """One search on one fleet; instance i owns the nonces congruent to i mod N."""

    difficulty: int  # leading zero hex digits of the hash, 0..64
    instances: int  # N
    time_limit: float  # T, seconds of search
    block: str = DEFAULT_BLOCK
    nonces: int = worker.DEFAULT_NONCES  # the space is range(nonces)
    instance_type: str = "t3.micro"
    kernel: str = "auto"  # or the name of one: see KERNELS
    script: str = ""  # the user's own worker (docs/workers.md); empty: pow.py
    words: tuple[str, ...] = ()  # arguments of the script
    smallest: bool = False  # finish the other classes up to a find
    keep: bool = False  # leave the fleet to its lifetime timer
    fleet_of: str = ""  # the run that launched the fleet; empty: this run itself
    # Of a fleet that another run left: its instances, all of which end with this run,
    # and the seconds from the start of this run until their lifetime timers end them.
    fleet_size: int = 0
    holds: float = 0.0
    replace: bool = False  # launch a new instance for one that was lost
    image: str = "ubuntu"  # one of IMAGES, or ami-...
    user: str = ""  # the login user; empty: the usual one of such images
    # subnet-..., or several with commas between; empty: AWS chooses a default one.
    subnet: str = ""
    address: str = "public"  # which of an instance's addresses SSH goes to
    gateway: str = ""  # user@host:port that SSH goes through; empty: none
    ssh_from: str = ""  # IPv4 CIDR from which SSH is allowed; empty: the caller's /32
    bootstrap: str = "auto"  # one of BOOTSTRAPS
    boot_allowance: float = BOOT_ALLOWANCE  # seconds until SSH must have answered
    usd_per_hour: float | None = None  # of one instance; None: not known
    # Types to take where there is no room for the first, in order, and their USD/h.
    others: dict[str, float | None] = field(default_factory=dict)
    market: str = "on-demand"  # one of MARKETS
    # What types cost on spot, USD/h by type and zone, as far as that is known.
    spot: dict[str, dict[str, float]] = field(default_factory=dict)
    hold: bool = False  # an Auto Scaling group replaces what is lost
    at_least: int = 0  # the least number of instances that is accepted; 0: all N
    asked: int = 0  # N as it was requested, where fewer could be launched; else 0
    witness_bits: int | None = None  # see `witness.bits_for`; None: none are shown
    # What earlier runs have left: see `pieces.dealt`.  Empty: all of the space.
    work: tuple[tuple[int, ...], ...] = ()
    chain: tuple[str, ...] = ()  # the runs that this one resumes, the newest last
    tested_before: int = 0  # nonces that these have tested, each counted once
    known: int | None = None  # a golden nonce that they have found: smaller ones count

    def __post_init__(self) -> None:
        self._check_search()
        if not 1 <= self.instances <= MAX_INSTANCES:
            message = f"--n must be 1 to {MAX_INSTANCES}, not {self.instances}"
            raise UsageError(message)
        self._check_capacity()
        if self.script and self.smallest:
            message = "--worker and --smallest exclude each other"
            raise UsageError(
                message, hint="a script itself defines what a good find is"
            )
        if not 0 < self.boot_allowance <= MAX_BOOT_ALLOWANCE:
            raise UsageError(
                f"--boot must be more than 0 and at most {MAX_BOOT_ALLOWANCE:.0f} "
                f"seconds, not {self.boot_allowance}"
            )
        if not 0 < self.time_limit <= MAX_TIME_LIMIT:
            raise UsageError(
                f"--t must be more than 0 and at most {MAX_TIME_LIMIT:.0f} seconds "
                f"(a week, less boot and end), not {self.time_limit}"
            )
        if not re.fullmatch("((subnet-[0-9a-f]+)(,subnet-[0-9a-f]+)*)?", self.subnet):
            raise UsageError(f"--subnet must be subnet-..., not {self.subnet!r}")
        self._check_access()
        if not re.fullmatch("([a-z_][a-z0-9_-]{0,31})?", self.user):
            raise UsageError(f"--user must be the name of a user, not {self.user!r}")
        if self.image not in IMAGES and not re.fullmatch("ami-[0-9a-f]+", self.image):
            names = ", ".join(IMAGES)
            raise UsageError(f"--image must be {names} or ami-..., not {self.image!r}")

    def _check_search(self) -> None:
        """Refuse a space that cannot be divided so."""
        count = len(self.work) or self.instances
        try:
            for number in range(count) if self.work else (0, count - 1):
                self.search(number)
            if self.known is not None and not self._is_golden(self.known):
                raise ValueError(f"{self.known} is not golden")
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from error

    def _is_golden(self, nonce: int) -> bool:
        return worker.is_golden(worker.digest(self.block, nonce), self.difficulty)

    def _check_access(self) -> None:
        """Refuse options on how to reach the instances that cannot work."""
        if self.bootstrap not in BOOTSTRAPS:
            names = ", ".join(BOOTSTRAPS)
            raise UsageError(f"--bootstrap must be {names}, not {self.bootstrap!r}")
        if self.bootstrap == "user-data" and (why := self._needs_ssh):
            message = f"{why} does not go with --bootstrap user-data"
            raise UsageError(message, hint="leave out one of them")
        if self.ssh_from:
            _check_range(self.ssh_from)
        if not re.fullmatch(r"((\w[\w.-]*@)?\w[\w.-]*(:\d{1,5})?)?", self.gateway):
            message = f"--gateway must be user@host:port, not {self.gateway!r}"
            raise UsageError(message, hint="for example: --gateway me@192.0.2.7")
        inside = "--gateway" if self.gateway else "--address private"
        if not self.ssh_from and (self.gateway or self.address == "private"):
            message = f"{inside}: this machine's own address is not the one to let in"
            hint = "say --ssh-from, the range that SSH will come from: 10.0.0.0/16"
            raise UsageError(message, hint=hint)

    def _check_capacity(self) -> None:
        """Refuse options on how to get instances that contradict each other."""
        if not 0 <= self.at_least <= self.instances and not self.asked:
            message = f"--at-least must be 1 to N ({self.instances})"
            raise UsageError(f"{message}, not {self.at_least}")
        others = {
            "--keep": self.keep,
            "--replace": self.replace,
            "--at-least": bool(self.at_least),
            "--spot-or-on-demand": self.market == MARKETS[-1],
        }
        if self.hold and (given := [name for name, on in others.items() if on]):
            message = f"--hold and {given[0]} exclude each other"
            raise UsageError(
                message, hint="--hold replaces missing instances by itself"
            )

    @property
    def without_ssh(self) -> bool:
        """Whether the instances get their orders by user data and S3, without SSH."""
        if self.bootstrap == "auto":
            return self.instances > MOST_BY_SSH and not self._needs_ssh
        return self.bootstrap == "user-data"

    @property
    def _needs_ssh(self) -> str:
        """The option that needs SSH, or instances launched one by one; "": none."""
        options = {
            "--ssh-from": bool(self.ssh_from),
            "--gateway": bool(self.gateway),
            "--hold": self.hold,
            "--worker": bool(self.script),
            "--at-least": bool(self.at_least),
            "--spot": self.market != MARKETS[0],
        }
        return next((name for name, on in options.items() if on), "")

    @property
    def lifetime(self) -> float:
        """Seconds until an instance ends itself, whatever happens.

        From its boot; on a fleet that another run left, from the start of this run.
        """
        if self.fleet_of:
            return self.holds
        return self.boot_allowance + self.time_limit + END_ALLOWANCE

    @property
    def progress(self) -> float:
        """Seconds between two progress events of a worker.

        A search for the smallest nonce ends by such an event, and should not wait
        long for it.  A large fleet must not send more than can be processed.
        """
        if self.smallest:
            return min(1.0, max(0.1, self.instances / 400))
        return min(2.5, max(1.0, self.instances / 200))

    @property
    def types(self) -> tuple[str, ...]:
        """The acceptable instance types, in the order in which they are tried."""
        return (self.instance_type, *self.others)

    @property
    def min_instances(self) -> int:
        """The least number of instances with which the run starts."""
        return self.at_least or self.instances

    @property
    def subnets(self) -> tuple[str, ...]:
        """The acceptable subnets, in their order; "" leaves the choice to AWS."""
        return tuple(self.subnet.split(","))

    @property
    def max_usd_per_hour(self) -> float | None:
        """The price of the most expensive acceptable type; None: one is not known."""
        prices = [self.usd_per_hour, *self.others.values()]
        known = [price for price in prices if price is not None]
        return max(known) if len(known) == len(prices) else None

    @property
    def worst_case_usd(self) -> float | None:
        """What the fleet costs if every instance lives until its timer ends it.

        With `replace`, also if each instance is lost and replaced.  Of a fleet that
        another run left, its whole rest.
        """
        most = 2 * self.instances if self.replace else self.instances
        if (price := self.max_usd_per_hour) is None:
            return None
        price += s3_requests.DEAREST * self.requests_usd_per_hour
        return self._billed_hours(self.lifetime) * max(most, self.fleet_size) * price

    @property
    def requests_usd_per_hour(self) -> float:
        """What the requests to S3 of one instance cost, where it has no other way.

        0 with SSH, where all of a run cost less than a cent.
        """
        if not self.without_ssh or self.usd_per_hour == 0:  # a cloud without prices
            return 0.0
        return s3_requests.usd_per_hour(self.instances)

    def usd(self, usages: Iterable[Usage]) -> float | None:
        """Return what instances cost, in USD; None if a price is not known."""
        costs = [(self._price(u), self._billed_hours(u.seconds)) for u in usages]
        more = self.requests_usd_per_hour
        known = [(price + more) * hours for price, hours in costs if price is not None]
        return sum(known) if len(known) == len(costs) else None

    def _billed_hours(self, life: float) -> float:
        """Return the hours that this run pays for an instance it used so long.

        The run that launched it has paid the minimum.
        """
        return life / 3600 if self.fleet_of else billed_hours(life)

    def _price(self, usage: Usage) -> float | None:
        """Return what an instance costs an hour, in its zone and on its market."""
        kind = usage.type or self.instance_type
        listed = {**self.others, self.instance_type: self.usd_per_hour}.get(kind)
        if usage.spot and listed != 0:  # a cloud without prices has no spot prices
            return self.spot.get(kind, {}).get(usage.zone)
        return listed

    @functools.cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """What is searched; a class is known by its number here."""
        if self.work:
            return tuple(Piece(*each) for each in self.work)
        return whole_classes(self.instances)

    @functools.cached_property
    def owners(self) -> Owners:
        """The piece of each nonce."""
        return Owners(self.pieces)

    @property
    def end(self) -> int:
        """Nonces from here on are not needed."""
        return self.nonces if self.known is None else self.known

    @property
    def left(self) -> int:
        """How many nonces are to be tested: all of the space, or what is left of it."""
        if not self.work:
            return self.nonces
        return sum(piece.size(self.end) for piece in self.pieces)

    def search(self, index: int) -> worker.Search:
        """Return what the worker of class number `index` searches."""
        if not self.work:
            return worker.Search(
                self.block, self.difficulty, self.nonces, index, self.instances
            )
        piece = Piece(*self.work[index])
        if piece.modulus < 1:
            raise ValueError(f"no class has the modulus {piece.modulus}")
        return worker.Search(
            self.block,
            self.difficulty,
            self.nonces,
            piece.residue,
            piece.modulus,
            piece.start,
        )

    def options(self) -> dict[str, Any]:
        """Return what was asked for, without prices and without what is left."""
        others = dict.fromkeys(self.others)
        asked = replace(
            self,
            work=(),
            instances=self.asked or self.instances,
            asked=0,
            others=others,
            usd_per_hour=None,
            spot={},
        )
        return asdict(asked)

    def to_json(self) -> dict[str, Any]:
        """Return the plan in the form of results and events."""
        return {
            **asdict(self),
            "lifetime": self.lifetime,
            "worst_case_usd": self.worst_case_usd,
        }


def _check_range(text: str) -> None:
    """Refuse what is no range of IPv4 addresses, and the range of all of them."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        message = f"--ssh-from must be a CIDR such as 192.0.2.0/24: {error}"
        raise UsageError(message) from error
    if network.prefixlen == 0:
        message = f"--ssh-from {text} allows every address"
        raise UsageError(message, hint="name a smaller range: 192.0.2.0/24")


def billed_hours(life: float) -> float:
    """Return the hours billed for an instance that ran `life` seconds."""
    return max(life, BILLED_AT_LEAST) / 3600


def class_size(nonces: int, index: int, instances: int) -> int:
    """Return how many of ``range(nonces)`` are congruent to `index` mod `instances`."""
    return members(index, instances, nonces)
