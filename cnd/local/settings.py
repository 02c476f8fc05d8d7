"""What the user may tell the embedded cloud through the environment.

One rule: a value that cannot be understood is refused before anything starts.

    CND_LOCAL_BOOT_SECONDS   how long a host takes to boot   "0", "3", "20-30"
    CND_LOCAL_API_SECONDS    how long an API call takes      same form
    CND_LOCAL_IDLE_SECONDS   life without instances and calls (default 900)
    CND_LOCAL_MEMORY_SECONDS how long terminated instances are shown (default 3600)
    CND_LOCAL_RATE           the most nonces/s of each host's worker (default: no limit)
    CND_LOCAL_ORPHAN_SECONDS until a host that hears nothing goes on alone (default 30)
    CND_LOCAL_REFUSED_SECONDS how long a refused termination is repeated (default 30)
    CND_LOCAL_LISTED_SECONDS how long what was launched may not be listed (default 20)
    CND_LOCAL_HOSTS          what an instance is: "process" (default) or "vm"
    CND_LOCAL_IMAGES         folder of virtual machines' images (default: in the state)
    CND_LOCAL_MIRROR         where an image's packages come from (default: as apt's)
    CND_LOCAL_ACCELERATOR    "kvm", or "tcg" for none (default: found out by trying)
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnd.errors import UsageError

HOSTS = ("process", "vm")
ACCELERATORS = ("", "kvm", "tcg")
DEFAULT_IDLE_SECONDS = 900.0
# "for a short period (usually less than one hour)", says AWS's guide to terminating.
DEFAULT_MEMORY_SECONDS = 3600.0


@dataclass(frozen=True)
class Delay:
    """A time in seconds that is drawn anew, uniformly, at each use."""

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
    rate: float | None = None  # nonces/s of each host's worker at most
    hosts: str = HOSTS[0]
    images: str = ""  # a folder; empty: in the state folder
    mirror: str = ""  # a URL; empty: as apt's
    accelerator: str = ""  # of virtual machines; empty: to be found out


@dataclass(frozen=True)
class Patience:
    """How long runs on the cloud wait where runs on AWS wait longer; None: as there."""

    orphan: float | None = None  # seconds
    refused: float | None = None  # seconds
    listed: float | None = None  # seconds


def patience(environ: Mapping[str, str]) -> Patience:
    """Return what a command that uses the cloud is told; raises UsageError."""

    def of(name: str) -> float | None:
        return _seconds(environ[name], name) if environ.get(name) else None

    return Patience(
        orphan=of("CND_LOCAL_ORPHAN_SECONDS"),
        refused=of("CND_LOCAL_REFUSED_SECONDS"),
        listed=of("CND_LOCAL_LISTED_SECONDS"),
    )


def read(environ: Mapping[str, str]) -> Settings:
    """Return the settings in `environ`; raises UsageError for a bad value."""
    rate, hosts = _rate(environ.get("CND_LOCAL_RATE")), environ.get("CND_LOCAL_HOSTS")
    if rate is not None and hosts == "vm":
        message = "CND_LOCAL_RATE holds for hosts that are processes only"
        raise UsageError(message, hint="unset it, or say --hosts process")
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
        hosts=_one_of(HOSTS, hosts or HOSTS[0], "--hosts"),
        accelerator=_one_of(
            ACCELERATORS, environ.get("CND_LOCAL_ACCELERATOR", ""), "accelerators"
        ),
        images=environ.get("CND_LOCAL_IMAGES", ""),
        mirror=environ.get("CND_LOCAL_MIRROR", ""),
    )


def _one_of(choices: Sequence[str], value: str, name: str) -> str:
    if value not in choices:
        known = " or ".join(filter(None, choices))
        raise UsageError(f"{name} of the embedded cloud: {known}, not {value!r}")
    return value


def _rate(text: str | None) -> float | None:
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 1 <= rate < 1e15:
        message = f"CND_LOCAL_RATE: {text!r} is not a number of nonces a second"
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
