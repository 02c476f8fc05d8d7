"""Numbers, times and tables as a user reads them.

One rule: text only; what is unknown is a dash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def number(value: float) -> str:
    """Return a count with three digits and a unit: 12.3 M."""
    for unit in ("", " k", " M", " G", " T"):
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} P"


def duration(seconds: float | None) -> str:
    """Return seconds as a person says them; "-" for what did not happen."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.2f} s"
    return f"{seconds / 60:.1f} min"


def table(
    rows: Iterable[Sequence[str]], columns: Sequence[str], *, gap: str = ""
) -> Iterator[str]:
    """Yield rows of cells as lines whose columns stand below each other.

    Args:
        columns: how each column is set, as for `format`: "<14" on the left in 14
            characters at least, ">9" on the right.  Without a number: as wide as its
            widest cell.  The last one serves for all columns after it, too.
        gap: what stands between two columns.
    """
    lines = [[*row] for row in rows]
    most = max(map(len, lines), default=0)
    sides = [*columns, *[columns[-1]] * (most - len(columns))]
    for i, side in enumerate(sides):
        if side in ("<", ">"):
            width = max((len(line[i]) for line in lines if i < len(line)), default=0)
            sides[i] = f"{side}{width}"
    for line in lines:
        cells = (f"{cell:{side}}" for cell, side in zip(line, sides, strict=False))
        yield gap.join(cells).rstrip()
