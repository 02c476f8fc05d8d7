"""A run for other programs: everything as JSON, or its instances as CSV.

One rule: pure functions of the files of a run; `docs/report.md` describes the result.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from cnd.run.journal import Journal
from cnd.view.instance_history import PHASES, InstanceHistory
from cnd.view.timeline import timeline

COLUMNS = (
    *("run", "index", "id", "type", "zone", "address", "kernel", "end"),
    *("tested", "nonces_per_second", "stop_latency_seconds"),
    *(f"{phase.replace(' ', '_')}_seconds" for phase in PHASES),
)


def as_json(journal: Journal) -> str:
    """Return a run as one JSON object; see docs/report.md."""
    line = timeline(journal.run, journal.events(), journal.result())
    whole = {
        "run": line.run,
        "outcome": line.outcome,
        "result": journal.result(),
        "instances": [_exported(line.run, life) for life in line.instances],
        "events": [json.loads(event.to_json()) for event in line.events],
    }
    # A worker may claim NaN, which Python writes and other programs cannot read.
    strict = json.loads(json.dumps(whole), parse_constant=lambda _: None)
    return json.dumps(strict, indent=1) + "\n"


def as_csv(journal: Journal) -> str:
    """Return the instances of a run as CSV (RFC 4180); see docs/report.md."""
    line = timeline(journal.run, journal.events(), journal.result())
    file = io.StringIO()
    table = csv.DictWriter(file, COLUMNS)
    table.writeheader()
    table.writerows(_exported(line.run, life) for life in line.instances)
    return file.getvalue()


def _exported(run: str, life: InstanceHistory) -> dict[str, Any]:
    """Return an instance by the names of `COLUMNS`; empty or null: not known."""
    seconds = {
        f"{phase.replace(' ', '_')}_seconds": round(life.seconds(phase), 3)
        for phase in PHASES
    }
    return {
        "run": run,
        "index": life.index,
        "id": life.id,
        "type": life.type,
        "zone": life.zone,
        "address": life.address,
        "kernel": life.kernel,
        "end": life.end,
        "tested": life.tested if life.is_counted else None,
        "nonces_per_second": round(life.rate, 1) if life.rate else None,
        "stop_latency_seconds": None if life.stop is None else round(life.stop, 3),
        **seconds,
    }
