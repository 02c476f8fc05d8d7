"""How the time of a search falls with N; and the rate and price of instance types.

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
from cnd.model.format import table

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
    beside: float | None = None  # seconds that were measured elsewhere
    beside_speed_up: float | None = None  # from these, where the smallest N has some


def rows(
    seconds: Mapping[int, Sequence[float]], beside: Mapping[int, float] | None = None
) -> list[SpeedupRow]:
    """Return a row for each N, ascending; `beside`: seconds by N, from elsewhere.

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


def caveat(compared: Sequence[SpeedupRow], nonce: int, *, local: bool) -> str:
    """Return a warning of searches that are too short to compare fleets, or "".

    Args:
        local: whether they were done on the local cloud, which can be slowed down.
    """
    base, most = compared[0], compared[-1].instances
    if base.median >= SHORT:
        return ""
    warning = (
        f"with N={base.instances} the search took {base.median:.2g} s: this compares "
        "how workers start, not how they search; use a larger --d"
    )
    rate = float(f"{nonce / (LONG * most):.2g}")
    if not local or rate < 1:
        return warning
    whole = sum(len(row.seconds) * nonce / rate / row.instances for row in compared)
    return (
        f"{warning}, or, for searches of {LONG:.0f} s and more, {whole / 60:.0f} min "
        "in all: `fab local down`, then the same with "
        f"CND_LOCAL_RATE={rate:g} before it"
    )


def text(
    compared: Sequence[SpeedupRow],
    difficulty: int,
    nonce: int,
    beside_is: str = "beside",
) -> str:
    """Return the table to read, with bars of the median time.

    Args:
        beside_is: the title of the column with the times from elsewhere.
    """
    longest = max(row.median for row in compared)
    beside = any(row.beside is not None for row in compared)
    found = [["N", "median", "least", "most", "speed-up", "ideal"]]
    found[0] += [beside_is] if beside else []
    for row in compared:
        times = [f"{each:.2f} s" for each in (row.median, row.least, row.most)]
        other = "-" if row.beside is None else f"{row.beside:.2f} s"
        found.append(
            [
                *(str(row.instances), *times),
                *(f"{row.speed_up:.2f}", f"{row.of_ideal:.0%}"),
                *([other] if beside else []),
                "  " + "█" * max(1, round(BAR * row.median / longest)),
            ]
        )
    columns = (">4", *[">10"] * 4, ">7", *[">10"] * beside, "<")
    lines = [f"difficulty {difficulty}, smallest golden nonce {nonce}"]
    lines += table(found, columns)
    if beside and beside_is == REPORTS:
        lines.append("report: the coursework report's own, with 13 nonces/s by N=8")
    return "\n".join(lines)


def others(text: str) -> dict[int, float]:
    """Return times from elsewhere: CSV lines of N and seconds; the first may be a head.

    Raises:
        UsageError: a line has no N or no seconds.
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


def to_csv(compared: Sequence[SpeedupRow], beside_is: str = "beside") -> str:
    """Return the table as CSV: a line for each N, the single runs left out."""
    titles = {"beside": beside_is, "beside_speed_up": f"{beside_is}_speed_up"}
    return written(
        [
            {titles.get(k, k): v for k, v in asdict(row).items() if k != "seconds"}
            for row in compared
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
    """Return the types as a table to read, the fastest first."""
    heads = ["type", "nonces/s", "least", "most", "USD/h", "USD/10^9", "  kernel"]
    rows = [heads]
    for each in sorted(found, key=lambda each: -each.nonces_per_second):
        speeds = (each.nonces_per_second, min(each.rates), max(each.rates))
        hour, price = each.usd_per_hour, each.usd_per_billion
        rows.append(
            [
                each.type,
                *(f"{speed:,.0f}" for speed in speeds),
                "-" if hour is None else f"{hour:.4f}",
                "-" if price is None else f"{price:.6f}",
                f"  {each.kernel}",
            ]
        )
    return "\n".join(table(rows, ("<14", *[">14"] * 3, ">9", ">10", "<")))
