"""The guard of a run: its fleet ends in time, wherever the deciding thread hangs.

One rule: it uses the cloud and nothing else: no journal, view, queue or lock that the
rest of a run could hold; and no exception stops it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from cnd.errors import LeakError
from cnd.system.pauses import growing

T = TypeVar("T")

INSIST = 300.0  # seconds for which a termination is tried through every exception
FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0  # seconds between two attempts, growing


def insist(
    terminate: Callable[[], T],
    *,
    note: Callable[[BaseException], None] = lambda error: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what `terminate` returns, however often it raises before.

    Args:
        note: takes what was raised, of each attempt but the last.

    Raises:
        LeakError: `terminate` itself has given up.
        BaseException: the last failure, once `INSIST` seconds are over.
    """
    deadline, pauses = clock() + INSIST, growing(FIRST_PAUSE, LAST_PAUSE)
    while True:
        pause = next(pauses)
        try:
            return terminate()
        except LeakError:
            raise
        except BaseException as error:  # a bug, no memory, Ctrl-C: instances still cost
            if clock() + pause >= deadline:
                raise
            note(error)
        sleep(pause)


class TerminationGuard(Generic[T]):
    """A thread that terminates a fleet at a deadline, unless it is dismissed before.

    Its methods take no lock: a signal handler may call them.
    """

    def __init__(self, terminate: Callable[[], T]) -> None:
        """Begin to guard; nothing happens before `expect` or `hasten` is called.

        Args:
            terminate: terminates the fleet, and returns when it was seen terminated.
        """
        self._terminate = terminate
        self._orders: SimpleQueue[tuple[str, float]] = SimpleQueue()
        self.acted = threading.Event()  # it had to terminate the fleet
        # Of the last termination: when it began, and its result.
        self._result: tuple[float, T] | None = None
        threading.Thread(target=self._watch, name="terminator", daemon=True).start()

    def result(self, since: float) -> T | None:
        """Return the result of a termination that began after `since`, or None."""
        if self._result is None or self._result[0] < since:
            return None
        return self._result[1]

    def expect(self, seconds: float) -> None:
        """Terminate in `seconds`; replaces what was expected before."""
        self._orders.put(("expect", time.monotonic() + seconds))

    def hasten(self, seconds: float) -> None:
        """Terminate in `seconds`, unless it is to be sooner already."""
        self._orders.put(("hasten", time.monotonic() + seconds))

    def postpone(self, seconds: float) -> None:
        """Terminate in `seconds` and not sooner: the run is terminating the fleet."""
        self._orders.put(("postpone", time.monotonic() + seconds))

    def dismiss(self) -> None:
        """End the guard: the fleet is terminated, or kept on purpose."""
        self._orders.put(("dismiss", 0.0))

    def _watch(self) -> None:
        latest = hastened = math.inf
        while True:
            left = min(latest, hastened) - time.monotonic()
            try:
                if left <= 0:
                    latest = hastened = math.inf
                    self.acted.set()
                    began = time.monotonic()
                    self._result = began, insist(self._terminate)
                    continue
                timeout = None if left == math.inf else left
                order, at = self._orders.get(timeout=timeout)
            except Empty:
                continue
            except BaseException:  # it was tried for long; another order may come
                continue
            if order == "dismiss":
                return
            if order == "hasten":
                hastened = min(hastened, at)
            else:
                latest = at
            if order == "postpone":
                hastened = math.inf
