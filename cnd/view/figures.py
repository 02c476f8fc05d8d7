"""A run's timeline as figures, for its report and as files of their own.

One rule: it draws, and decides nothing; no text of a worker is drawn.  The figures are
for a light page; in the report, the colours of ink become CSS variables.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cnd.model.events import amount
from cnd.model.format import number
from cnd.model.plan import BILLED_AT_LEAST
from cnd.view.colors import COLORS
from cnd.view.instance_history import (
    PHASES,
    InstanceHistory,
    phase_counts,
    phase_seconds,
    rates,
)
from cnd.view.timeline import ClassCoverage, Timeline, list_usd

WIDE, NARROW, HALF = 1080, 360, 440  # CSS pixels, as the next
TALL, LOW = 370, 280  # two figures beside each other have the same height
ROWS = 64  # up to so many instances have a row of their own in the timeline
NAMED = 16  # up to so many have a label and a line of their own
BINS = 120  # columns of the hash rate

# No other thing has these colours: in a page they give way to the page's own.
INK, MUTED, FAINT, PAPER = "#1c2530", "#5d6875", "#dfe3e8", "#ffffff"
IN_CSS = {INK: "var(--ink)", MUTED: "var(--muted)", FAINT: "var(--faint)"}
SEARCH, STOP, GOLD = COLORS["search"], COLORS["stop"], "#e0a526"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cnd",  # the same run, the same file
    "text.parse_math": False,  # a "$" is a dollar
    "font.size": 12.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 12.0,
    "legend.labelcolor": MUTED,
}


@dataclass(frozen=True)
class Picture:
    """One figure: to be put into a page, and as files."""

    inline: tuple[str, ...]  # SVG elements for wide and narrow, or one for both
    svg: str
    png: bytes


def draw(line: Timeline) -> dict[str, Picture]:
    """Return the pictures that this run gives something for, by name."""
    found = {}
    with matplotlib.rc_context(STYLE):
        for name, (paint, widths) in PICTURES.items():
            figures = [paint(line, width) for width in widths]
            drawn = [figure for figure in figures if figure is not None]
            if drawn:
                found[name] = _picture(drawn)
    return found


def _picture(figures: Sequence[Figure]) -> Picture:
    texts = [_svg(figure) for figure in figures]
    png = io.BytesIO()
    figures[0].savefig(png, format="png", dpi=144, facecolor=PAPER)
    return Picture(tuple(_element(text) for text in texts), texts[0], png.getvalue())


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _element(svg: str) -> str:
    """Return the bare element, fit for HTML: no prologue, no address, no fixed size."""
    svg = re.sub(r"(?s)<metadata>.*?</metadata>", "", svg[svg.index("<svg") :])
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    for color, variable in IN_CSS.items():
        svg = svg.replace(color, variable)
    return re.sub(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg)


# --- figures


def _figure(width: int, height: int) -> Figure:
    """Return an empty figure; its points are the page's pixels."""
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def _axes(
    figure: Figure,
    *,
    left: float = 52,
    right: float = 18,
    top: float = 10,
    bottom: float = 40,
) -> Axes:
    """Return axes inside margins of so many pixels."""
    width, height = (72 * inches for inches in figure.get_size_inches())
    return figure.add_axes(
        (
            left / width,
            bottom / height,
            (width - left - right) / width,
            (height - top - bottom) / height,
        )
    )


def _timeline(line: Timeline, width: int) -> Figure | None:
    """Where the time went: a row for each instance, or how many are in each phase."""
    if not line.instances:
        return None
    found = phase_seconds(line.instances)
    columns = len(found) if width >= WIDE else 3
    legend = 12 + 18 * -(-len(found) // columns)
    count = len(line.instances)
    row = 26 if count <= 8 else 20 if count <= NAMED else 9
    inner = count * row if count <= ROWS else 320
    figure = _figure(width, inner + legend + 52)
    axes = _axes(figure, left=44, top=legend + 12)
    if count <= ROWS:
        _rows(axes, line.instances)
    else:
        _areas(axes, line)
    axes.set_xlim(0, line.seconds or 1)
    axes.set_xlabel("seconds since the start")
    axes.xaxis.set_major_locator(MaxNLocator(10 if width >= WIDE else 5))
    axes.grid(axis="x")
    _mark_end(axes, line)
    figure.legend(
        handles=[Patch(color=COLORS[name], label=name) for name in found],
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.4,
    )
    return figure


def _rows(axes: Axes, instances: Sequence[InstanceHistory]) -> None:
    for phase in PHASES:
        bars = [
            (span.begin, span.end, row - 0.39, row + 0.39)
            for row, instance in enumerate(instances)
            for span in instance.spans
            if span.name == phase
        ]
        if bars:
            axes.add_patch(PathPatch(_boxes(bars), color=COLORS[phase], lw=0))
    for row, instance in enumerate(instances):
        if instance.end == "lost" and instance.spans:
            axes.annotate(
                "lost" if len(instances) <= NAMED else "\N{MULTIPLICATION SIGN}",
                (instance.spans[-1].end, row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                color=STOP,
            )
    axes.set_ylim(len(instances) - 0.4, -0.6)
    every = 1 if len(instances) <= NAMED else 8
    names = [str(each.index) for each in instances[::every]]
    axes.set_yticks(range(0, len(instances), every), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("instance")
    axes.spines["left"].set_visible(False)


def _boxes(boxes: Iterable[tuple[float, float, float, float]]) -> Path:
    """Return boxes (left, right, low, high) as one path: thousands in no time."""
    corners: list[tuple[float, float]] = []
    codes = []
    for a, b, low, high in boxes:
        corners += [(a, low), (b, low), (b, high), (a, high), (a, low)]
        codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(corners, codes)


def _areas(axes: Axes, line: Timeline) -> None:
    times = [line.seconds * i / 300 for i in range(301)]
    found = phase_counts(line.instances, times)
    colors = [COLORS[name] for name in found]
    axes.stackplot(times, *found.values(), colors=colors, lw=0)
    axes.set_ylim(0, len(line.instances))
    axes.set_ylabel("instances")


def _mark_end(axes: Axes, line: Timeline) -> None:
    """Mark when the end was decided."""
    if line.decided is None:
        return
    axes.axvline(line.decided, color=INK, lw=1, ls=(0, (3, 2)))
    late = line.decided > 0.7 * line.seconds
    axes.annotate(
        f"{line.outcome} ",
        (line.decided, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-3 if late else 3, 2),
        textcoords="offset points",
        ha="right" if late else "left",
        color=INK,
        fontsize=11,
    )


def _hash_rate(line: Timeline, width: int) -> Figure | None:
    """The hash rate over time: of all together, and of each."""
    samples = [sample for instance in line.instances for sample in instance.samples]
    if not samples:
        return None
    begin, end = min(p.begin for p in samples), max(p.end for p in samples)
    edges = [begin + (end - begin) * i / BINS for i in range(BINS + 1)]
    each = rates(line.instances, edges)
    figure = _figure(width, TALL)
    top = _axes(figure, bottom=205, top=24)
    total = [sum(column) for column in zip(*each, strict=True)]
    top.stairs(total, edges, fill=True, color=SEARCH, alpha=0.25, lw=0)
    top.stairs(total, edges, color=SEARCH, lw=1.6, baseline=None)
    bottom = _axes(figure, top=230)
    if len(each) <= NAMED:
        _lines(bottom, line, each, edges)
    else:
        _heat(bottom, each, (begin, end))
    for axes, title in ((top, "all together, nonces/s"), (bottom, "each instance")):
        axes.set_xlim(begin, end)
        axes.set_title(title, loc="left", fontsize=12, color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    top.set_ylim(bottom=0)
    top.yaxis.set_major_formatter(UNITS)
    top.yaxis.set_major_locator(MaxNLocator(4))
    top.grid(axis="y")
    top.tick_params(labelbottom=False)
    bottom.set_xlabel("seconds since the start")
    return figure


def _lines(
    axes: Axes, line: Timeline, each: list[list[float]], edges: list[float]
) -> None:
    finder = line.result.get("instance_id")
    for instance, values in zip(line.instances, each, strict=True):
        if any(values):
            won = instance.id == finder
            color, width = (GOLD, 2.2) if won else (SEARCH, 1.0)
            axes.stairs(
                [value or math.nan for value in values],
                edges,
                color=color,
                lw=width,
                alpha=1 if won else 0.65,
                baseline=None,
                zorder=3 if won else 2,
                label="the finder" if won else None,
            )
    if axes.get_legend_handles_labels()[1]:
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.02, 1),
            handlelength=1.2,
            fontsize=11,
            borderaxespad=0,
        )
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(UNITS)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y")


def _heat(axes: Axes, each: list[list[float]], when: tuple[float, float]) -> None:
    """One row of pixels for each instance: the more, the greener."""
    values = sorted(value for row in each for value in row if value)
    image = axes.imshow(
        each,
        cmap=LinearSegmentedColormap.from_list("cnd", [(SEARCH, 0.0), (SEARCH, 1.0)]),
        vmin=0,
        vmax=values[int(0.97 * (len(values) - 1))],  # a burst must not pale the rest
        extent=(*when, len(each), 0),
        aspect="auto",
        interpolation="nearest",
    )
    place = axes.inset_axes((0.62, 1.1, 0.34, 0.06))
    bar = axes.figure.colorbar(image, cax=place, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.xaxis.set_major_formatter(UNITS)
    bar.ax.xaxis.set_major_locator(MaxNLocator(2))
    bar.ax.tick_params(labelsize=10.5, length=0, labeltop=True, labelbottom=False)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _coverage(line: Timeline, width: int) -> Figure | None:
    """How many nonces of each class were tested."""
    classes = line.classes
    if not any(each.tested for each in classes):
        return None
    figure = _figure(width, TALL)
    axes = _axes(figure, top=52)
    _bars(axes, classes, line.result.get("index"))
    most, size = max(c.tested for c in classes), max(c.size for c in classes)
    axes.set_ylim(0, 1.06 * most)
    if most > size / 4:
        axes.axhline(size, color=INK, lw=1, ls=(0, (3, 2)))
        axes.annotate(
            "all of it",
            (1, size),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=11,
        )
        axes.set_ylim(0, 1.08 * size)
    axes.set_xlim(-0.6, len(classes) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_formatter(UNITS)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y")
    axes.set_xlabel("class")
    axes.set_title("nonces tested", loc="left", fontsize=12, color=MUTED)
    marks = [Patch(color=SEARCH, label="without a gap"), _pale("ahead of a gap")]
    if any(each.index == line.result.get("index") for each in classes):
        marks.append(Patch(color=GOLD, label="the finder's"))
    figure.legend(
        handles=marks,
        loc="upper right",
        ncols=3,
        handlelength=0.9,
        handleheight=0.9,
        fontsize=11,
    )
    return figure


def _bars(axes: Axes, classes: Sequence[ClassCoverage], winner: object) -> None:
    """One bar for each class: dark up to its cursor, pale above; the winner golden."""
    half = 0.41 if len(classes) <= ROWS else 0.5
    for won, color in ((False, SEARCH), (True, GOLD)):
        those = [each for each in classes if (each.index == winner) is won]
        below = [(c.index - half, c.index + half, 0, c.below) for c in those]
        above = [(c.index - half, c.index + half, c.below, c.tested) for c in those]
        for boxes, alpha in ((below, 1.0), (above, 0.4)):
            if boxes:
                axes.add_patch(PathPatch(_boxes(boxes), color=color, alpha=alpha, lw=0))


def _pale(label: str) -> Patch:
    return Patch(color=SEARCH, alpha=0.4, label=label, lw=0)


def _stops(line: Timeline, width: int) -> Figure | None:
    """How long each worker took from the decision to its last report."""
    stops = line.stops
    if not stops:
        return None
    few = len(stops) <= NAMED
    figure = _figure(width, LOW)
    axes = _axes(figure, top=30)
    for was, color, label in (
        (True, STOP, "was searching"),
        (False, COLORS["push"], "was being set up"),
    ):
        rows = [i for i, instance in enumerate(stops) if instance.was_searching is was]
        values = [1000 * (stops[i].stop or 0) for i in rows]
        if not rows:
            continue
        if few:
            axes.barh(rows, values, 0.62, color=color, label=label, lw=0)
        else:
            axes.plot(values, rows, "o", ms=3.5, mew=0, color=color, label=label)
    if few:
        axes.set_yticks(range(len(stops)), [str(instance.index) for instance in stops])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(stops) - 0.4)
    axes.set_xlim(left=0)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("ms from the decision to its last report")
    axes.set_ylabel("instance" if few else "instances")
    figure.legend(
        loc="upper left", ncols=2, handlelength=0.9, handleheight=0.9, fontsize=11
    )
    return figure


def _bill(line: Timeline, width: int) -> Figure | None:
    """What the bill counts: seconds of running instances, by what they did."""
    found = {
        name: sum(seconds)
        for name, seconds in phase_seconds(line.instances).items()
        if name != "pending"  # not billed
    }
    if not found:
        return None
    ran = [each.running_seconds for each in line.instances]
    rest = sum(max(0.0, BILLED_AT_LEAST - seconds) for seconds in ran)
    rows = {**found, f"rest of {BILLED_AT_LEAST:.0f} s": rest}
    figure = _figure(width, LOW)
    axes = _axes(figure, left=84, right=92, top=4)
    whole = sum(rows.values())
    for i, (name, seconds) in enumerate(rows.items()):
        axes.barh(i, seconds, 0.66, color=COLORS.get(name, "#b9c0c8"), lw=0)
        axes.annotate(
            f"{seconds:,.0f} s · {100 * seconds / whole:.0f} %",
            (seconds, i),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=11,
            color=MUTED,
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(UNITS)
    axes.grid(axis="x")
    axes.set_xlabel("instance-seconds")
    paid, on_aws = amount(line.result.get("usd")), line.result.get("cloud") == "aws"
    if usd := paid or (None if on_aws else list_usd(line)):
        where = " on AWS" if line.result.get("cloud") == "local" else ""
        axes.set_xlabel(f"instance-seconds; together ${usd:.4f}{where}")
    return figure


UNITS = FuncFormatter(lambda value, _: number(value))

Painter = Callable[[Timeline, int], "Figure | None"]
# In the order of the page; the first is as wide as it.
PICTURES: Mapping[str, tuple[Painter, tuple[int, ...]]] = {
    "timeline": (_timeline, (WIDE, NARROW)),
    "rate": (_hash_rate, (HALF,)),
    "coverage": (_coverage, (HALF,)),
    "stops": (_stops, (HALF,)),
    "bill": (_bill, (HALF,)),
}
