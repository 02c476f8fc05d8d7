"""Whether SSH reaches any host of a run, and the likely cause where it reaches none.

One rule: it counts seconds and reports at most once; it reaches nothing by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cnd.model.events import Event

PATIENCE = 60.0  # seconds for which hosts may run before any of them answers
PART_OF_BOOT = 0.2  # the same, as a part of a boot allowance that is shorter


class FirstContact:
    """The wait for the first answer of any host; for one thread, `begin` aside."""

    def __init__(
        self,
        rule: str,
        boot_allowance: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wait for nothing yet.

        Args:
            rule: what lets SSH in, such as "sg-1 allows SSH from 192.0.2.7/32".
            boot_allowance: seconds that a host may take until it answers.
        """
        self._rule, self._clock = rule, clock
        self._patience = min(PATIENCE, PART_OF_BOOT * boot_allowance)
        self._due = math.inf  # when to report
        self._over = False

    def begin(self) -> None:
        """Begin to wait, unless that has begun: a host runs."""
        self._due = min(self._due, self._clock() + self._patience)

    @property
    def left(self) -> float:
        """Seconds until it is to be looked whether to report; inf: never."""
        return math.inf if self._over else max(0.0, self._due - self._clock())

    def report(self, *, answered: bool) -> Event | None:
        """Return the event that no host answers, if it is time for it.

        Args:
            answered: whether a host has answered, if only by a refusal.
        """
        if self._over or not (answered or self.left <= 0):
            return None
        self._over = True
        if answered:
            return None
        reason = (
            f"no instance has answered on the port of SSH, {self._patience:.0f} s "
            f"after the first one ran; {self._rule}"
        )
        hint = "SSH may leave this machine by another address: --ssh-from names a range"
        return Event("cloud.trouble", fields={"reason": f"{reason}; {hint}"})
