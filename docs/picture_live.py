"""Draw docs/live.svg: the live view of a run on this disk, at a moment of it.

One rule: the run is a real one, told by its own events:

    CND_LOCAL_RATE=20000 cnd start --t 60 --d 7 --n 12
    python docs/picture_live.py RUN 14 > docs/live.svg
"""

from __future__ import annotations

import io
import json
import re
import sys

from rich.console import Console

from cnd.model.plan import Plan
from cnd.model.search_state import SearchState
from cnd.run.journal import ORDER, Journal
from cnd.view.live_table import LiveView
from cnd.view.narrator import sentence

WIDTH, ROWS = 110, 16


def main(run: str, seconds: str) -> None:
    """Print the picture of `run` at so many seconds after its start."""
    journal = Journal(run)
    events = list(journal.events())
    until = events[0].time + float(seconds)
    plan = Plan(**json.loads((journal.folder / ORDER).read_text())["plan"])
    search, screen = SearchState(plan), io.StringIO()
    view = LiveView(plan, screen, past=[e for e in events if e.time <= until])
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    options = f"--t {plan.time_limit:g} --d {plan.difficulty} --n {plan.instances}"
    console.print(f"$ cnd start {options}", markup=False)
    for event in events:
        if event.time <= until:
            search.see(event)
            if event.kind in ("run.started", "instance.requested", "instance.lost"):
                console.print(sentence(event), markup=False)
    view.tick(search)
    console.print(view.frame(until, WIDTH, ROWS))
    # The picture is to fetch nothing: every viewer has a font.
    print(
        re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="cnd"), flags=re.S)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
