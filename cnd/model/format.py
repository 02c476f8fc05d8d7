"""Numbers and times as a user reads them.

One rule: text only; what is unknown is a dash.
"""

from __future__ import annotations


def number(value: float) -> str:
    """Return a count with three digits and a unit: 12.3 M."""
    for unit in ("", " k", " M", " G", " T"):
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} P"


def duration(seconds: float | None) -> str:
    """Return a duration in a readable unit; "-" for what did not happen."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.2f} s"
    return f"{seconds / 60:.1f} min"
