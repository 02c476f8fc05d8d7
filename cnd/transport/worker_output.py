"""The output of one worker, line by line, as events within the allowance of its host.

One rule: a host that exceeds its allowance is read slowly, and what exceeds it is not
kept; a worker's last event counts, whatever was sent before it.
"""

from __future__ import annotations

from collections.abc import Callable

from cnd.errors import HostError
from cnd.model.events import LAST_WORDS, Emit, Event, from_worker
from cnd.transport.bounded_lines import Allowance
from cnd.transport.fleet import NOISE, TOO_MUCH, dropped

# In the JSON of a last event, one of these stands.
LAST = tuple(kind.removeprefix("worker.").encode() for kind in LAST_WORDS)

# A host that exceeds its allowance is read so slowly that it takes no more of this
# machine's time: 1.3 MB/s, for all such hosts together.
LOUD_BYTES = 64 << 10  # that are read, and dropped, before a pause
LOUD_PAUSE = 0.05  # seconds


class WorkerOutput:
    """Emits the events of one worker, within the allowance of its host."""

    def __init__(
        self,
        index: int,
        instance_id: str,
        allowance: Allowance,
        put: Emit,
        slow_down: Callable[[], bool],
        judged: Callable[[Event], Event] = lambda event: event,
    ) -> None:
        """Begin with no line.

        Args:
            slow_down: pauses; returns whether the output is still wanted.
            judged: returns what is believed of a last event.
        """
        self._index, self._host, self._put = index, instance_id, put
        self._judged = judged
        self._allowance, self._slow_down = allowance, slow_down
        self._reported = allowance.dropped_bytes  # how many of them an event reports
        self._unpaid = 0  # bytes that were dropped since the last pause
        self.last = ""  # the kind of the last event, once it has come

    def is_last(self, line: bytes) -> bool:
        """Take in a line; return whether no more lines are wanted.

        A last event counts whatever the allowance is.
        """
        last = any(word in line for word in LAST)
        if last and (event := self._event(line)).kind in LAST_WORDS:
            self.last = event.kind
            self._put(self._judged(event))
            return True
        if not self._allowance.keeps(len(line) + 1):
            return self._pay(len(line) + 1)
        event = self._event(line)
        if event.kind != NOISE or self._allowance.keeps_noise(len(line)):
            self._put(event)
        return False

    def _event(self, line: bytes) -> Event:
        text = line.decode("utf-8", "replace")
        return from_worker(text, index=self._index, host=self._host)

    def drop(self, size: int) -> None:
        """Count the bytes of a line beyond its limit.

        Raises:
            HostError: the line does not end, and no time is left.
        """
        self._allowance.drop(size, lines=0)
        if self._pay(size):
            raise HostError(self._host, "sends a line without end")

    def _pay(self, size: int) -> bool:
        """Delay a host that exceeds its allowance; return whether to give it up."""
        if not self._reported:
            self._reported = self._allowance.dropped_bytes
            self._report(TOO_MUCH)
        self._unpaid += size
        if self._unpaid < LOUD_BYTES:
            return False
        self._unpaid = 0
        return not self._slow_down()

    def close(self) -> None:
        """Report how much was dropped, if anything was."""
        lines, size = self._allowance.dropped, self._allowance.dropped_bytes
        if size > self._reported:
            self._reported = size
            self._report(f"sent too much: {lines} lines ({size} bytes) are not kept")

    def _report(self, what: str) -> None:
        self._put(dropped(self._host, what, self._allowance))
