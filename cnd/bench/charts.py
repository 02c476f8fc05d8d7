"""The charts of a bench, as SVG or PNG files: speed-up against the ideal; rates.

One rule: it draws, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from cnd.bench.speedup import SpeedupRow, TypeRate
from cnd.view.figures import FAINT, GOLD, INK, PAPER, SEARCH, STYLE, UNITS


def draw(compared: Sequence[SpeedupRow], path: Path, beside_is: str = "beside") -> None:
    """Write the chart to `path`; its name ends in .svg or .png.

    Args:
        beside_is: the label of the line of times from elsewhere.

    Raises OSError.
    """
    counts = [row.instances for row in compared]
    # The smallest N is as many times as fast as one as it has instances.
    base = counts[0] * compared[0].median
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(counts, counts, "--", color=INK, label="ideal")
        spread = [
            [row.speed_up - base / row.most for row in compared],
            [base / row.least - row.speed_up for row in compared],
        ]
        axes.errorbar(
            *(counts, [row.speed_up for row in compared]),
            yerr=spread,
            fmt="o-",
            color=SEARCH,
            capsize=3,
            label="median, and least to most",
        )
        others = [
            (r.instances, r.beside_speed_up) for r in compared if r.beside_speed_up
        ]
        if len(others) > 1:
            places, times = zip(*others, strict=True)
            axes.plot(places, times, "s:", color=GOLD, label=beside_is)
        axes.set_xlabel("instances")
        axes.set_ylabel("speed-up")
        axes.set_xticks(counts)
        axes.grid(color=FAINT)
        axes.legend()
        figure.savefig(path, dpi=144, facecolor=PAPER)


def draw_types(found: Sequence[TypeRate], path: Path) -> None:
    """Write a chart of the rate of each type to `path`, as `draw`; raises OSError."""
    rising = sorted(found, key=lambda each: each.nonces_per_second)
    medians = [each.nonces_per_second for each in rising]
    spread = [
        [each.nonces_per_second - min(each.rates) for each in rising],
        [max(each.rates) - each.nonces_per_second for each in rising],
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 1.2 + 0.4 * len(rising)), layout="constrained")
        axes = figure.add_subplot()
        names = [each.type for each in rising]
        axes.barh(names, medians, 0.62, xerr=spread, color=SEARCH, ecolor=INK)
        axes.set_xlabel("nonces/s: median, and least to most")
        axes.xaxis.set_major_formatter(UNITS)
        axes.grid(axis="x", color=FAINT)
        figure.savefig(path, dpi=144, facecolor=PAPER)
