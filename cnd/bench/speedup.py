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
# The coursework report's own times for the same golden nonce, by 1 and by 8 instances,
# at one SSH command a nonce: 13 nonces/s with 8.
REPORT = {1: 66.7, 8: 8.8}  # seconds
REPORTS = "report"  # what the column with them is called
SHORT = 5.0  # seconds; in a shorter search the start of workers weighs more than it
LONG = 10.0  # seconds that the search of the largest fleet should take


@dataclass(frozen=True)
class SpeedupRow:
    """The runs with one N, beside those with the smallest N."""

    instances: int
    seconds: tuple[float, ...]  # of search, one for each run
    median: float
    least: float
    most: float
    speed_up: float  # against the smallest N, whose own is that N
    of_ideal: float  # 1.0: N instances are N times as fast as one
    beside: float | None = None  # seconds that somebody else has measured
    beside_speed_up: float | None = None  # from these, where the smallest N has some


def rows(
    seconds: Mapping[int, Sequence[float]], beside: Mapping[int, float] | None = None
) -> list[SpeedupRow]:
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
        other, others = (beside or {}).get(n), (beside or {}).get(first)
        times = first * others / other if other and others else None
        ours = (n, tuple(seconds[n]), median, *spread, speed_up, speed_up / n)
        found.append(SpeedupRow(*ours, other, times))
    return found


def caveat(table: Sequence[SpeedupRow], nonce: int, *, local: bool) -> str:
    """Return what is to be said of searches too short to compare fleets, or "".

    Args:
        local: whether they were done on the local cloud, which can be slowed down.
    """
    base, most = table[0], table[-1].instances
    if base.median >= SHORT:
        return ""
    told = (
        f"with N={base.instances} the search took {base.median:.2g} s: this compares "
        "how workers start, not how they search; say a larger --d"
    )
    rate = float(f"{nonce / (LONG * most):.2g}")
    if not local or rate < 1:
        return told
    whole = sum(len(row.seconds) * nonce / rate / row.instances for row in table)
    return (
        f"{told}, or, for searches of {LONG:.0f} s and more, {whole / 60:.0f} min in "
        f"all: `fab local down`, then the same with CND_LOCAL_RATE={rate:g} before it"
    )


def text(
    table: Sequence[SpeedupRow], difficulty: int, nonce: int, beside_is: str = "beside"
) -> str:
    """Return the table for people, with bars of the median time.

    Args:
        beside_is: the title of the column with the times of somebody else.
    """
    longest = max(row.median for row in table)
    head = (
        f"{'N':>4}{'median':>10}{'least':>10}{'most':>10}{'speed-up':>10}{'ideal':>7}"
    )
    if beside := any(row.beside is not None for row in table):
        head += f"{beside_is:>10}"
    lines = [f"difficulty {difficulty}, smallest golden nonce {nonce}", head]
    lines += [
        f"{r.instances:>4}{r.median:>8.2f} s{r.least:>8.2f} s{r.most:>8.2f} s"
        f"{r.speed_up:>10.2f}{r.of_ideal:>7.0%}"
        + beside * ("-" if r.beside is None else f"{r.beside:.2f} s").rjust(10)
        + "  "
        + "█" * max(1, round(BAR * r.median / longest))
        for r in table
    ]
    if beside and beside_is == REPORTS:
        lines.append("report: the coursework report's own, with 13 nonces/s by N=8")
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


def to_csv(table: Sequence[SpeedupRow], beside_is: str = "beside") -> str:
    """Return the table as CSV: a line for each N, the single runs left out."""
    titles = {"beside": beside_is, "beside_speed_up": f"{beside_is}_speed_up"}
    return written(
        [
            {titles.get(k, k): v for k, v in asdict(row).items() if k != "seconds"}
            for row in table
        ]
    )


def written(records: Sequence[Mapping[str, object]]) -> str:
    """Return records with the same keys as CSV with a head."""
    target = io.StringIO()
    writer = csv.DictWriter(target, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return target.getvalue().rstrip("\n")


@dataclass(frozen=True)
class TypeRate:
    """One type of instance: what it computes, and what that costs."""

    type: str
    rates: tuple[float, ...]  # nonces/s, one for each run
    kernel: str
    usd_per_hour: float | None

    @property
    def nonces_per_second(self) -> float:
        """The median of the runs."""
        return statistics.median(self.rates)

    @property
    def usd_per_billion(self) -> float | None:
        """The price of 10**9 nonces tested; None where the price is not known."""
        if self.usd_per_hour is None:
            return None
        return self.usd_per_hour / 3600 / self.nonces_per_second * 1e9

    def to_json(self) -> dict[str, object]:
        """Return the figures; `least` and `most` are rates, as the median is."""
        return {
            "type": self.type,
            "nonces_per_second": self.nonces_per_second,
            "least": min(self.rates),
            "most": max(self.rates),
            "runs": len(self.rates),
            "kernel": self.kernel,
            "usd_per_hour": self.usd_per_hour,
            "usd_per_billion": self.usd_per_billion,
        }


def type_table(found: Sequence[TypeRate]) -> str:
    """Return the types as a table for people, the fastest first."""
    lines = [
        f"{'type':<14}{'nonces/s':>14}{'least':>14}{'most':>14}{'USD/h':>9}"
        f"{'USD/10^9':>10}  kernel"
    ]
    for w in sorted(found, key=lambda worth: -worth.nonces_per_second):
        hour = "-" if w.usd_per_hour is None else f"{w.usd_per_hour:.4f}"
        price = w.usd_per_billion
        billion = "-" if price is None else f"{price:.6f}"
        speeds = (w.nonces_per_second, min(w.rates), max(w.rates))
        shown = "".join(f"{speed:>14,.0f}" for speed in speeds)
        lines.append(f"{w.type:<14}{shown}{hour:>9}{billion:>10}  {w.kernel}")
    return "\n".join(lines)
