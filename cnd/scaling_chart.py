"""The chart of a scaling bench: speed-up against the ideal, as an SVG or PNG file.

One rule: draws, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from cnd.pictures import FAINT, INK, PAPER, SEARCH, STYLE
from cnd.scaling import Row


def draw(table: Sequence[Row], path: Path) -> None:
    """Write the chart to `path`; its name ends in .svg or .png.

    Raises OSError.
    """
    counts = [row.instances for row in table]
    # The smallest N is as many times as fast as one as it has instances.
    base = counts[0] * table[0].median
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(counts, counts, "--", color=INK, label="ideal")
        spread = [
            [row.speed_up - base / row.most for row in table],
            [base / row.least - row.speed_up for row in table],
        ]
        axes.errorbar(
            *(counts, [row.speed_up for row in table]),
            yerr=spread,
            fmt="o-",
            color=SEARCH,
            capsize=3,
            label="median, and least to most",
        )
        axes.set_xlabel("instances")
        axes.set_ylabel("speed-up")
        axes.set_xticks(counts)
        axes.grid(color=FAINT)
        axes.legend()
        figure.savefig(path, dpi=144, facecolor=PAPER)
