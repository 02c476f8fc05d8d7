"""Faults that a test or a user injects: their kinds, and the registry that counts them.

One rule: a fault is a frozen value and was checked completely before it is registered;
nothing here acts.  `middleware.faulty` applies the faults of API calls, `host_manager`
and `host` those of hosts.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from cnd.errors import UsageError
from cnd.local.host import clock

FOREVER = "forever"
MOST_CALLS = 10**6
MOST_SECONDS = 86400.0
# HTTP status of these error codes on AWS, if not 400.
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
STATUS = {
    "AccessDenied": 403,
    "AuthFailure": 401,
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "InternalFailure": 500,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
}
LAUNCHES = ("ec2:RunInstances", "ec2:CreateFleet")
CODES = {403: "AccessDenied", 500: "InternalError", 503: "ServiceUnavailable"}
HINT = "for example: fab local fault RunInstances --code RequestLimitExceeded --times 2"


@dataclass(frozen=True)
class ApiFault:
    """A fault of the calls of one API action: a delay, and then at most one effect.

    The effects: an error (`code`, `http`), a connection that is reset before the call
    is executed (`reset`) or after it (`lost_reply`), or a launch of fewer instances
    (`at_most`).  Without any of them the call only takes longer.
    """

    action: str  # "RunInstances"; wildcards and a service: "s3:*", "Describe*"
    code: str = ""
    http: int = 0
    message: str = ""
    times: int = 1  # calls that it affects; 0: for ever
    skip: int = 0  # calls that it does not affect, before those
    delay: float = 0.0  # seconds
    reset: bool = False
    lost_reply: bool = False
    at_most: int = 0  # instances; 0: no limit

    def matches(self, name: str) -> bool:
        """Tell whether the fault is for a call, such as "ec2:RunInstances"."""
        pattern = self.action if ":" in self.action else f"*:{self.action}"
        return fnmatchcase(name, pattern)


# Faults of a host that boots ...
BOOT_KINDS = {
    "never-boots": "it counts as running, but its SSH never answers",
    "boots-late": "its SSH answers so many seconds after it counts as running",
    "no-key": "its SSH refuses every key for so many seconds",
    "mute": "its SSH port accepts connections and sends nothing",
    "wrong-clock": "its clock is so many seconds ahead, or behind if less than 0",
}
# ... and of a host that is up.
LIVE_KINDS = {
    "kill": "all its processes die at once, and the instance with them",
    "freeze": "all its processes stop, and can continue",
    "thaw": "they continue",
    "cut": "its SSH connections are reset, once",
    "no-sshd": "its SSH server ends with all connections; its processes continue",
    "disk-full": "no file of it can grow any more",
    "interrupt": "the cloud takes it back, as a spot instance, in so many seconds; "
    "its metadata service gives notice",
}
TIMED = ("boots-late", "no-key", "interrupt", "wrong-clock")  # they have `seconds`
HOST_HINT = (
    "for example: fab local fault 1 never-boots, or: fab local fault i-0123 kill"
)


@dataclass(frozen=True)
class HostFault:
    """A fault of one host.

    `host` is an instance id, or its place among the hosts launched from now on, from 0.
    """

    host: str
    kind: str
    seconds: float = 0.0

    @property
    def place(self) -> int | None:
        """The place of a host that is not launched yet."""
        return int(self.host) if self.kind in BOOT_KINDS else None


def parse_host(fields: Mapping[str, Any]) -> HostFault:
    """Return the host's fault that `fields` describe.  Raises UsageError."""
    names = HostFault.__dataclass_fields__
    if unknown := sorted(fields.keys() - names.keys()):
        message = f"a host's fault has no {unknown[0]!r}, only {', '.join(names)}"
        raise UsageError(message, hint=HOST_HINT)
    host, kind = str(fields.get("host", "")), _text(fields, "kind")
    if kind not in {**BOOT_KINDS, **LIVE_KINDS}:
        kinds = ", ".join([*BOOT_KINDS, *LIVE_KINDS])
        message = f"the fault of a host is one of {kinds}, not {kind!r}"
        raise UsageError(message, hint=HOST_HINT)
    if kind in BOOT_KINDS and not (host.isdecimal() and int(host) < MOST_CALLS):
        message = f"{kind} is for a host by its place in the next launch, not {host!r}"
        raise UsageError(message, hint=HOST_HINT)
    least = -MOST_SECONDS if kind == "wrong-clock" else 0.0
    seconds = _seconds(fields, "seconds", least)
    if kind == "wrong-clock" and not clock.library():
        message = "wrong-clock needs libfaketime, which is not on this machine"
        raise UsageError(message, hint="apt-get install faketime")
    if seconds and kind not in TIMED:
        raise UsageError(f"{kind} takes no seconds", hint=HOST_HINT)
    return HostFault(host, kind, seconds)


def parse(fields: Mapping[str, Any], known: Collection[str]) -> ApiFault:
    """Return the API fault that `fields` describe, with defaults for missing fields.

    Numbers may be given as text.  `known` are the existing actions, in the form
    "ec2:RunInstances".  Raises UsageError.
    """
    names = ApiFault.__dataclass_fields__
    if unknown := sorted(fields.keys() - names.keys()):
        message = f"a fault has no {unknown[0]!r}, only {', '.join(names)}"
        raise UsageError(message, hint=HINT)
    code, http = _text(fields, "code"), _whole(fields, "http", 400, 599)
    fault = ApiFault(
        action=_text(fields, "action"),
        code=code or CODES.get(http, ""),
        http=http or (STATUS.get(code, 400) if code else 0),
        message=_text(fields, "message"),
        times=_times(fields),
        skip=_whole(fields, "skip", 0, MOST_CALLS),
        delay=_seconds(fields, "delay"),
        reset=_switch(fields, "reset"),
        lost_reply=_switch(fields, "lost_reply"),
        at_most=_whole(fields, "at_most", 1, MOST_CALLS),
    )
    _check(fault, known)
    return fault


def _check(fault: ApiFault, known: Collection[str]) -> None:
    """Refuse a fault that could never happen, or would have no effect."""
    if not any(map(fault.matches, known)):
        message = f"{fault.action!r} is no action of a service of the local cloud"
        raise UsageError(message, hint=HINT)
    if fault.http and not fault.code:
        message = f"status {fault.http} needs an error code as well"
        raise UsageError(message, hint=HINT)
    effects = {
        "code": fault.code,
        "reset": fault.reset,
        "lost_reply": fault.lost_reply,
        "at_most": fault.at_most,
    }
    wanted = [name for name, value in effects.items() if value]
    if len(wanted) > 1:
        raise UsageError(f"{' and '.join(wanted)} exclude each other", hint=HINT)
    if not wanted and not fault.delay:
        message = (
            f"what is to happen to {fault.action}? one of {', '.join(effects)}, delay"
        )
        raise UsageError(message, hint=HINT)
    if fault.at_most and not any(map(fault.matches, LAUNCHES)):
        raise UsageError("at_most is for RunInstances and CreateFleet", hint=HINT)


@dataclass
class _Entry:
    number: int
    fault: ApiFault | HostFault
    seen: int = 0  # matching calls
    struck: int = 0  # calls or hosts that it has affected
    host: int | None = None  # the affected host's number, in the order of all launches

    def is_open(self) -> bool:
        fault = self.fault
        if isinstance(fault, HostFault):
            return False
        return not fault.times or self.struck < fault.times

    def to_json(self) -> dict[str, Any]:
        counts = {"fault": self.number, "struck": self.struck}
        return {**counts, **asdict(self.fault)}


class FaultRegistry:
    """The registered faults, and how often each has happened."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._laid = 0
        self._launched = 0  # hosts

    def add(self, fault: ApiFault | HostFault) -> dict[str, Any]:
        """Register a fault; that of a host that is up has happened already."""
        with self._lock:
            self._laid += 1
            entry = _Entry(self._laid, fault)
            if isinstance(fault, HostFault):
                if fault.place is None:
                    entry.struck = 1
                else:
                    entry.host = self._launched + fault.place
            self._entries.append(entry)
            return entry.to_json()

    def next_host_fault(self) -> HostFault | None:
        """Count one more launched host; return its fault, if there is one."""
        with self._lock:
            number, self._launched = self._launched, self._launched + 1
            for entry in reversed(self._entries):
                if entry.host == number and isinstance(entry.fault, HostFault):
                    entry.struck = 1
                    return entry.fault
        return None

    def has_open(self) -> bool:
        """Tell whether any API fault can still happen: mostly there is none."""
        return any(entry.is_open() for entry in list(self._entries))

    def take(self, name: str) -> ApiFault | None:
        """Return the fault of a call, the first registered one that is due, if any."""
        with self._lock:
            for entry in self._entries:
                fault = entry.fault
                if isinstance(fault, HostFault) or not entry.is_open():
                    continue
                if not fault.matches(name):
                    continue
                entry.seen += 1
                if entry.seen > fault.skip:
                    entry.struck += 1
                    return fault
        return None

    def to_json(self) -> list[dict[str, Any]]:
        with self._lock:
            return [entry.to_json() for entry in self._entries]

    def clear(self) -> int:
        """Remove all faults; return their number."""
        with self._lock:
            count = len(self._entries)
            self._entries.clear()
            return count


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or not value.isprintable():
        raise UsageError(f"{name} must be text, not {value!r}", hint=HINT)
    return value


def _switch(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be true or false, not {value!r}", hint=HINT)
    return value


def _times(fields: Mapping[str, Any]) -> int:
    if fields.get("times") == FOREVER:
        return 0
    return _whole(fields, "times", 0, MOST_CALLS, default=1)


def _whole(
    fields: Mapping[str, Any], name: str, low: int, high: int, default: int = 0
) -> int:
    """Return a whole number in ``low..high``, or `default` if none is given."""
    given = fields.get(name, "")
    if given == "":
        return default
    value = _number(given)
    if value != int(value) if math.isfinite(value) else True:
        raise UsageError(f"{name} must be a whole number, not {given!r}", hint=HINT)
    if not low <= value <= high:
        message = f"{name} must be {low} to {high}, not {given!r}"
        raise UsageError(message, hint=HINT)
    return int(value)


def _seconds(fields: Mapping[str, Any], name: str, least: float = 0.0) -> float:
    given = fields.get(name, "")
    value = 0.0 if given == "" else _number(given)
    if not least <= value <= MOST_SECONDS:
        message = (
            f"{name} must be {least:.0f} to {MOST_SECONDS:.0f} seconds, not {given!r}"
        )
        raise UsageError(message, hint=HINT)
    return value


def _number(given: Any) -> float:
    """Return a number given as such or as text; NaN if it is not one."""
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        return math.nan
    try:
        return float(given)
    except (ValueError, OverflowError):
        return math.nan
