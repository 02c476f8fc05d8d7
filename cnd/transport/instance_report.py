"""The report that an instance has put into S3: its workers' events and its log.

One rule: pure, and nothing of its form is trusted: another machine has written it.
What has another form is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cnd.model.events import LARGEST, LAST_WORDS, Event, amount, from_worker
from cnd.transport.bounded_lines import LONGEST, Allowance


def parsed(data: bytes, instance: str) -> dict[str, Any]:
    """Return the report of an instance; an empty one if it cannot be understood."""
    try:
        report = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    known = isinstance(report, dict) and report.get("instance") == instance
    return report if known else {}


def lines(report: dict[str, Any], part: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a part's worker, each with its number."""
    parts = report.get("parts")
    found = parts.get(part) if isinstance(parts, dict) else None
    for line in found if isinstance(found, list) else []:
        if not (isinstance(line, list) and len(line) == 2):
            continue
        number, text = line
        if isinstance(number, int) and isinstance(text, str):
            yield number, text


def events(
    report: dict[str, Any], part: str, *, index: int, host: str
) -> Iterator[tuple[Event, float]]:
    """Yield the events of a part whose worker has ended, up to its last event.

    Each comes with its age in seconds when the report was written, by the host's own
    clock: 0 where that makes no sense.  No more is read than a host may send at once.
    """
    allowed = Allowance(0.0, clock=lambda: 0.0)
    put = amount(report.get("time"))
    for _, text in lines(report, part):
        event = from_worker(text[:LONGEST], index=index, host=host)
        last = event.kind in LAST_WORDS
        if allowed.keeps(len(text)) or last:
            yield event, 0.0 if put is None else max(0.0, put - event.time)
        if last:
            return


def missing(report: dict[str, Any]) -> int | None:
    """Return how many bytes of its log are missing by a report; None: some are."""
    missed = report.get("log_missing", 0)
    return None if missed is None else int(min(amount(missed) or 0, LARGEST))
