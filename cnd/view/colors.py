"""The colours of a run's phases, in its report and in its figures.

One rule: they differ on a light page and on a dark one, also for people who see no red
or green: neighbours differ in lightness.
"""

from __future__ import annotations

COLORS = {
    "pending": "#a9b3be",
    "boot": "#e0a526",
    "push": "#8f78d4",
    "search": "#1f9d76",
    "out of touch": "#ef7d3c",
    "stop": "#d9435f",
    "log": "#3f8fd0",
    "wait": "#cfc6b4",
    "terminate": "#71808f",
}
