"""A call to the cloud that is made again while what it failed of may pass.

One rule: only what can be repeated without harm comes here, and for some seconds only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from cnd.cloud.failures import code
from cnd.errors import CloudError
from cnd.provision.capacity import pause

T = TypeVar("T")


def again(
    work: Callable[[], T],
    *,
    hopeless: Callable[[], bool] = lambda: False,
    pause: Callable[[Sequence[str]], float | None] = pause,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what `work` returns; where it fails, try again, as a launch is.

    Args:
        hopeless: whether another attempt is useless, as the cloud has ended.
        pause: returns the seconds until the next attempt, given AWS's error codes of
            all failures; None: there is none.

    Raises:
        CloudError: the last failure, when it does not pass or has lasted for long.
    """
    failures: list[str] = []
    while True:
        try:
            return work()
        except CloudError as error:
            failures.append(code(error))
            seconds = pause(failures)
            if seconds is None or hopeless():
                raise
        sleep(seconds)
