"""Settings of the local cloud, which come from the environment.

One rule: an invalid value is refused before anything starts.

    CND_LOCAL_BOOT_SECONDS   how long a host takes to boot   "0", "3", "20-30"
    CND_LOCAL_API_SECONDS    how long an API call takes      same form
    CND_LOCAL_IDLE_SECONDS   life without instances and calls (default 900)
    CND_LOCAL_MEMORY_SECONDS how long terminated instances are shown (default 3600)
    CND_LOCAL_RATE           nonces/s of each host's worker, at most (default: no limit)
    CND_LOCAL_ORPHAN_SECONDS silence until a host is an orphan (default 30)
    CND_LOCAL_REFUSED_SECONDS how long a refused termination is repeated (default 30)
    CND_LOCAL_LISTED_SECONDS how long a launched instance may not be listed (default 20)
    CND_LOCAL_WEATHER        AWS's habits: "calm" (default), "aws:7" (`weather`)
    CND_LOCAL_ACCOUNT_KIND   what the account has and allows (`account_kinds`)
    CND_LOCAL_SESSION_SECONDS life of a lab's credentials (default 14400)
    CND_LOCAL_POLICY         a file with the caller's rights (default: all)
    CND_LOCAL_HOSTS          the kind of instances: "process" (default) or "vm"
    CND_LOCAL_IMAGES         folder of virtual machines' images (default: state folder)
    CND_LOCAL_MIRROR         source of an image's packages (default: that of apt)
    CND_LOCAL_ACCELERATOR    "kvm", or "tcg" for none (default: found by a trial)
    CND_OPENCL_CPU           "1": hosts of types with GPUs see the processor as one
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnd.errors import UsageError
from cnd.local.account_kinds import AccountKind
from cnd.local.account_kinds import parse as account_kind
from cnd.local.policy import Policy
from cnd.local.policy import read as policy_in
from cnd.local.weather import Weather
from cnd.local.weather import parse as weather_of

HOSTS = ("process", "vm")
GPU, POCL_CACHE = "CND_OPENCL_CPU", "POCL_CACHE_DIR"
ACCELERATORS = ("", "kvm", "tcg")
DEFAULT_IDLE_SECONDS = 900.0
# "for a short period (usually less than one hour)", says AWS's guide to terminating.
DEFAULT_MEMORY_SECONDS = 3600.0


@dataclass(frozen=True)
class Delay:
    """A time in seconds; each use draws it at random, uniformly."""

    low: float = 0.0
    high: float = 0.0

    def draw(self) -> float:
        return random.uniform(self.low, self.high)


@dataclass(frozen=True)
class Settings:
    boot: Delay = Delay()
    api: Delay = Delay()
    idle: float = DEFAULT_IDLE_SECONDS  # seconds
    memory: float = DEFAULT_MEMORY_SECONDS  # of what has been terminated, seconds
    rate: float | None = None  # nonces/s of each host's worker, at most
    weather: Weather = field(default_factory=Weather)
    account: AccountKind = field(default_factory=AccountKind)
    session: float | None = None  # seconds that the credentials live; None: for ever
    policy: Policy = field(default_factory=Policy)  # the rights of the caller
    hosts: str = HOSTS[0]
    images: str = ""  # a folder; empty: in the state folder
    mirror: str = ""  # a URL; empty: that of apt
    accelerator: str = ""  # of virtual machines; empty: found by a trial
    # The variables by which a worker sees the processor as a GPU; empty: it does not.
    gpu: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Patience:
    """Shorter waits for runs on the local cloud; None: as on AWS."""

    orphan: float | None = None  # seconds
    refused: float | None = None  # seconds
    listed: float | None = None  # seconds


def patience(environ: Mapping[str, str]) -> Patience:
    """Return the settings for a command that uses the cloud; raises UsageError."""

    def of(name: str) -> float | None:
        return _seconds(environ[name], name) if environ.get(name) else None

    return Patience(
        orphan=of("CND_LOCAL_ORPHAN_SECONDS"),
        refused=of("CND_LOCAL_REFUSED_SECONDS"),
        listed=of("CND_LOCAL_LISTED_SECONDS"),
    )


def read(environ: Mapping[str, str]) -> Settings:
    """Return the settings in `environ`; raises UsageError for an invalid value."""
    rate, hosts = _rate(environ.get("CND_LOCAL_RATE")), environ.get("CND_LOCAL_HOSTS")
    if rate is not None and hosts == "vm":
        message = "CND_LOCAL_RATE applies to hosts that are processes only"
        raise UsageError(message, hint="unset it, or use --hosts process")
    account = account_kind(environ.get("CND_LOCAL_ACCOUNT_KIND", ""))
    return Settings(
        rate=rate,
        boot=_delay(environ, "CND_LOCAL_BOOT_SECONDS"),
        api=_delay(environ, "CND_LOCAL_API_SECONDS"),
        idle=_seconds(
            environ.get("CND_LOCAL_IDLE_SECONDS") or str(DEFAULT_IDLE_SECONDS),
            "CND_LOCAL_IDLE_SECONDS",
        ),
        memory=_seconds(
            environ.get("CND_LOCAL_MEMORY_SECONDS") or str(DEFAULT_MEMORY_SECONDS),
            "CND_LOCAL_MEMORY_SECONDS",
        ),
        weather=weather_of(environ.get("CND_LOCAL_WEATHER", "")),
        account=account,
        session=_session(environ, account),
        policy=policy_in(environ.get("CND_LOCAL_POLICY", "")),
        hosts=_one_of(HOSTS, hosts or HOSTS[0], "--hosts"),
        accelerator=_one_of(
            ACCELERATORS, environ.get("CND_LOCAL_ACCELERATOR", ""), "accelerators"
        ),
        images=environ.get("CND_LOCAL_IMAGES", ""),
        mirror=environ.get("CND_LOCAL_MIRROR", ""),
        gpu=_gpu(environ),
    )


def _session(environ: Mapping[str, str], account: AccountKind) -> float | None:
    name = "CND_LOCAL_SESSION_SECONDS"
    if account.session_seconds is None:
        return None
    return _seconds(environ.get(name) or str(account.session_seconds), name)


def _gpu(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a host with a GPU, which is the processor, by pocl."""
    if environ.get(GPU) != "1":
        return {}
    # Hosts share pocl's usual cache, so that each does not compile the kernel anew.
    caches = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', '')}/.cache"
    return {GPU: "1", POCL_CACHE: environ.get(POCL_CACHE) or f"{caches}/pocl/kcache"}


def _one_of(choices: Sequence[str], value: str, name: str) -> str:
    if value not in choices:
        known = " or ".join(filter(None, choices))
        raise UsageError(f"{name} of the local cloud: {known}, not {value!r}")
    return value


def _rate(text: str | None) -> float | None:
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 1 <= rate < 1e15:
        message = f"CND_LOCAL_RATE: {text!r} is not a number of nonces per second"
        raise UsageError(message, hint="write a number such as 20000")
    return rate


def _delay(environ: Mapping[str, str], name: str) -> Delay:
    low, dash, high = (environ.get(name) or "0").partition("-")
    delay = Delay(_seconds(low, name), _seconds(high if dash else low, name))
    if delay.low > delay.high:
        raise UsageError(f"{name}: {low} is more than {high}")
    return delay


def _seconds(text: str, name: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UsageError(
            f"{name}: {text!r} is not a number of seconds",
            hint="write a number such as 3, or for a delay a range such as 20-30",
        )
    return seconds
