"""How the time of a search falls with N, and what types of instances are worth.

One rule: pure.  Runs that are compared had the same answer, since they all ended with
the smallest golden nonce; the median of repeated runs is shown with their spread.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cnd.errors import UsageError

BAR = 40  # characters of the longest bar


@dataclass(frozen=True)
class Row:
    """The runs with one N, beside those with the smallest N."""

    instances: int
    seconds: tuple[float, ...]  # of search, one for each run
    median: float
    least: float
    most: float
    speed_up: float  # against the smallest N, whose own is that N
    of_ideal: float  # 1.0: N instances are N times as fast as one
    beside: float | None = None  # seconds that somebody else has measured


def rows(
    seconds: Mapping[int, Sequence[float]], beside: Mapping[int, float] | None = None
) -> list[Row]:
    """Return a row for each N, ascending; `beside`: seconds by N, of somebody else.

    Raises:
        UsageError: a search took no time at all.
    """
    if not all(seconds.values()) or min(map(min, seconds.values())) <= 0:
        raise UsageError("a search was too short to be measured", hint="a larger --d")
    first = min(seconds)
    base = statistics.median(seconds[first])
    found = []
    for n in sorted(seconds):
        median = statistics.median(seconds[n])
        speed_up = first * base / median
        spread = min(seconds[n]), max(seconds[n])
        other = (beside or {}).get(n)
        found.append(
            Row(n, tuple(seconds[n]), median, *spread, speed_up, speed_up / n, other)
        )
    return found


def text(table: Sequence[Row], difficulty: int, nonce: int) -> str:
    """Return the table for people, with bars of the median time."""
    longest = max(row.median for row in table)
    head = (
        f"{'N':>4}{'median':>10}{'least':>10}{'most':>10}{'speed-up':>10}{'ideal':>7}"
    )
    if beside := any(row.beside is not None for row in table):
        head += f"{'beside':>10}"
    lines = [f"difficulty {difficulty}, smallest golden nonce {nonce}", head]
    lines += [
        f"{r.instances:>4}{r.median:>8.2f} s{r.least:>8.2f} s{r.most:>8.2f} s"
        f"{r.speed_up:>10.2f}{r.of_ideal:>7.0%}"
        + beside * ("-" if r.beside is None else f"{r.beside:.2f} s").rjust(10)
        + "  "
        + "█" * max(1, round(BAR * r.median / longest))
        for r in table
    ]
    return "\n".join(lines)


def others(text: str) -> dict[int, float]:
    """Return somebody else's times: lines of N and seconds, as CSV; a head will do.

    Raises:
        UsageError: a line is none.
    """
    found = {}
    for number, line in enumerate(csv.reader(io.StringIO(text)), 1):
        try:
            n, seconds = int(line[0]), float(line[1])
        except (ValueError, IndexError) as error:
            if number == 1:
                continue
            message = f"--beside: line {number} is not N,SECONDS: {','.join(line)!r}"
            raise UsageError(message) from error
        found[n] = seconds
    return found


def to_csv(table: Sequence[Row]) -> str:
    """Return the table as CSV: a line for each N, the single runs left out."""
    records = [{k: v for k, v in asdict(r).items() if k != "seconds"} for r in table]
    return written(records)


def written(records: Sequence[Mapping[str, object]]) -> str:
    """Return records with the same keys as CSV with a head."""
    target = io.StringIO()
    writer = csv.DictWriter(target, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return target.getvalue().rstrip("\n")


@dataclass(frozen=True)
class Worth:
    """One type of instance: what it computes, and what that costs."""

    type: str
    nonces_per_second: float
    kernel: str
    usd_per_hour: float | None

    @property
    def usd_per_billion(self) -> float | None:
        """The price of 10**9 nonces tested; None where the price is not known."""
        if self.usd_per_hour is None:
            return None
        return self.usd_per_hour / 3600 / self.nonces_per_second * 1e9

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "usd_per_billion": self.usd_per_billion}


def worths(found: Sequence[Worth]) -> str:
    """Return the types as a table for people, the fastest first."""
    lines = [f"{'type':<16}{'nonces/s':>16}{'USD/h':>10}{'USD/10^9':>12}  kernel"]
    for w in sorted(found, key=lambda worth: -worth.nonces_per_second):
        hour = "-" if w.usd_per_hour is None else f"{w.usd_per_hour:.4f}"
        price = w.usd_per_billion
        billion = "-" if price is None else f"{price:.6f}"
        rate = f"{w.nonces_per_second:,.0f}"
        lines.append(f"{w.type:<16}{rate:>16}{hour:>10}{billion:>12}  {w.kernel}")
    return "\n".join(lines)
