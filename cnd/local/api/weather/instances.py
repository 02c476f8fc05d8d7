"""What the weather does to an instance, from its launch until it is forgotten.

One rule: it answers with times; `cnd.local.api.instances` acts on them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable

from cnd.local.api.weather import habits
from cnd.local.api.weather.resources import Resources
from cnd.local.weather import Weather


class InstanceTimes:
    """When something of an instance happens or is shown, in seconds; calm: at once."""

    def __init__(self, weather: Weather, resources: Resources) -> None:
        self._weather, self._resources = weather, resources
        self._lock = threading.Lock()
        self._quick: set[str] = set()  # their operating systems are not shut down

    def __bool__(self) -> bool:
        return bool(self._weather)

    def launched(self, instance: str) -> None:
        if self._weather:
            self._resources.add("instance", instance)

    def skip_shutdown(self, instances: Iterable[str]) -> None:
        """Note that these are to end without a shutdown of the operating system."""
        with self._lock:
            self._quick |= set(instances)

    def public_address_after(self, instance: str) -> float | None:
        """Return when the public address is shown, after "running"; None: always."""
        if not self._has("address"):
            return None
        return habits.public_address_after(self._weather.seed, self._number(instance))

    def private_address_after(self, instance: str) -> float | None:
        if not self._has("address"):
            return None
        return habits.private_address_after(self._weather.seed, self._number(instance))

    def shutdown_seconds(self, instance: str) -> float:
        """Return for how long it is shutting down after its host is gone."""
        with self._lock:
            if not self._has("shutdown") or instance in self._quick:
                return 0.0
        return habits.shutdown_seconds(self._weather.seed, self._number(instance))

    def loses_tags_after(self, instance: str) -> float:
        """Return when it loses its tags, after its end."""
        if not self._has("forget"):
            return math.inf
        return habits.loses_tags_after(self._weather.seed, self._number(instance))

    def listed_for(self, instance: str) -> float:
        """Return for how long it is listed, after its end."""
        if not self._has("forget"):
            return math.inf
        return habits.listed_for(self._weather.seed, self._number(instance))

    def _has(self, habit: str) -> bool:
        return habit in self._weather.habits

    def _number(self, instance: str) -> int:
        return self._resources.number("instance", instance)


def calm() -> InstanceTimes:
    """Return the times of a cloud without habits."""
    return InstanceTimes(Weather(), Resources(0))
