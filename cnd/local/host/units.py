"""Parser of systemd's unit files, as far as a lifetime timer needs it.

One rule: pure functions from text to values; `cnd.local.host.init` acts on them.
Source: systemd.syntax(7), systemd.timer(5), systemd.service(5), systemd.time(7).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

_UNITS = {
    "us": 1e-6,
    "usec": 1e-6,
    "ms": 1e-3,
    "msec": 1e-3,
    "": 1,
    "s": 1,
    "sec": 1,
    "second": 1,
    "seconds": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "minutes": 60,
    "h": 3600,
    "hr": 3600,
    "hour": 3600,
    "hours": 3600,
    "d": 86400,
    "day": 86400,
    "days": 86400,
    "w": 604800,
    "week": 604800,
    "weeks": 604800,
}
_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*")
# Prefixes of a command: ignore failure, other argv[0], full privileges and others.
_EXEC_PREFIXES = "-@:+!"


@dataclass(frozen=True)
class Unit:
    """One unit file: its settings in order, as (section, key, value)."""

    name: str
    settings: tuple[tuple[str, str, str], ...]

    def values(self, section: str, key: str) -> list[str]:
        """Return all values of a key; an empty one resets the list, as in systemd."""
        found: list[str] = []
        for entry in self.settings:
            if entry[:2] == (section, key):
                found = [*found, entry[2]] if entry[2] else []
        return found

    @property
    def starts(self) -> str:
        """The unit that a timer starts."""
        named = self.values("Timer", "Unit")
        return named[-1] if named else self.name.removesuffix(".timer") + ".service"

    @property
    def boot_seconds(self) -> list[float]:
        return [seconds(text) for text in self.values("Timer", "OnBootSec")]

    @property
    def active_seconds(self) -> list[float]:
        return [seconds(text) for text in self.values("Timer", "OnActiveSec")]

    @property
    def commands(self) -> list[list[str]]:
        """The argument vectors of a service, in order."""
        return [exec_words(line) for line in self.values("Service", "ExecStart")]


def parse(name: str, text: str) -> Unit:
    """Read a unit file; lines without an assignment are ignored, as in systemd."""
    settings: list[tuple[str, str, str]] = []
    section = ""
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif line and line[0] not in "#;" and "=" in line:
            key, _, value = line.partition("=")
            settings.append((section, key.strip(), value.strip()))
    return Unit(name, tuple(settings))


def seconds(span: str) -> float:
    """Return a time span such as `320`, `5min` or `1h 30s` in seconds.

    Raises ValueError for anything else.
    """
    total, position = 0.0, 0
    while match := _SPAN.match(span, position):
        if match[2] not in _UNITS:
            break
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if position == 0 or position != len(span):
        raise ValueError(f"not a time span: {span!r}")
    return total


def exec_words(line: str) -> list[str]:
    """Split an ExecStart line; `$$` means `$`, `%%` means `%`.  Raises ValueError."""
    words = shlex.split(line.lstrip(_EXEC_PREFIXES))
    if not words:
        raise ValueError("an empty command")
    return [word.replace("$$", "$").replace("%%", "%") for word in words]


def shutdown_seconds(when: str) -> float:
    """Return the delay in seconds of a time for shutdown(8): `now`, `+5` (minutes).

    Raises ValueError for anything else (a time of day is not supported).
    """
    if when == "now":
        return 0.0
    if not re.fullmatch(r"\+?\d+", when):
        raise ValueError(f"Failed to parse time specification: {when}")
    return int(when) * 60.0
