"""What an instance has put into S3 of its workers' words.

One rule: pure, and nothing of its form is taken on trust: whoever may write a report
is another machine.  What has another form is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cnd.model.events import LARGEST, LAST_WORDS, Event, amount, from_worker
from cnd.transport.bounded_lines import LONGEST, Allowance


def parsed(data: bytes, instance: str) -> dict[str, Any]:
    """Return the report of an instance; nothing where it makes no sense."""
    try:
        report = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    known = isinstance(report, dict) and report.get("instance") == instance
    return report if known else {}


def lines(report: dict[str, Any], part: str) -> Iterator[tuple[int, str]]:
    """Yield what the worker of a part has said, numbered by when it did."""
    parts = report.get("parts")
    told = parts.get(part) if isinstance(parts, dict) else None
    for line in told if isinstance(told, list) else []:
        if not (isinstance(line, list) and len(line) == 2):
            continue
        number, text = line
        if isinstance(number, int) and isinstance(text, str):
            yield number, text


def words(
    report: dict[str, Any], part: str, *, index: int, host: str
) -> Iterator[tuple[Event, float]]:
    """Yield the events of a part whose worker has ended, up to its last word.

    With each how many seconds before the report it was said, by the host's own clock:
    0 where that makes no sense.  No more is read than a host may say at once.
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
    """Return how many bytes of its log are missing, as a host tells; None: some."""
    told = report.get("log_missing", 0)
    return None if told is None else int(min(amount(told) or 0, LARGEST))
