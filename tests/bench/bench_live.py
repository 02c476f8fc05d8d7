"""What the live view costs: the part of a core that it takes while N workers report."""

from __future__ import annotations

import io
import time
from statistics import median

from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.model.search_state import SearchState
from cnd.view.live_table import LiveView

SECONDS = 5.0


class Screen(io.StringIO):
    """A terminal that no user looks at."""

    def isatty(self) -> bool:
        return True


def share(instances: int) -> float:
    """Return processor seconds a second, with `instances` reports a second."""
    plan = Plan(difficulty=9, instances=instances, time_limit=60)
    search, view = SearchState(plan), LiveView(plan, Screen())
    for i in range(instances):
        for kind in ("instance.launched", "instance.running", "worker.started"):
            view.show(Event(kind, i, f"i-{i:017x}", {"kernel": "avx2"}))
    began, spent = time.monotonic(), time.process_time()
    told = 0
    while (now := time.monotonic() - began) < SECONDS:
        while told < now * instances:
            fields = {"tested": told * 1000, "rate": 1e6 + told}
            i = told % instances
            view.show(Event("worker.progress", i, f"i-{i:017x}", fields))
            view.tick(search)
            told += 1
        view.tick(search)
        time.sleep(0.005)
    used = time.process_time() - spent
    view.close()
    return used / SECONDS


def main() -> None:
    for instances in (8, 64, 512):
        shares = [share(instances) for _ in range(3)]
        print(f"live view, N={instances}: {100 * median(shares):.1f} % of a core (n=3)")


if __name__ == "__main__":
    main()
