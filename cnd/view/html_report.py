"""A run's report: one HTML file that needs no network, no script and no other file.

One rule: every value is escaped and bounded on its way into the page, since a worker's
output is another machine's.  The page's policy forbids it every request besides.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jinja2
from markupsafe import Markup

import cnd
from cnd.model.events import harmless
from cnd.view import report_facts
from cnd.view.colors import COLORS
from cnd.view.timeline import Timeline

TEMPLATE = "report.html.jinja"
REMARKS = 60  # lines of what went on besides
FOLDED = 16  # rows; a longer table is folded
MOST_TEXT = 300  # characters of one value
CAPTIONS = {
    "timeline": ("Where the time went", "What each instance did, and when."),
    "rate": ("Hash rate", "From what the workers report as tested."),
    "coverage": ("Coverage", "Nonces of each residue class that were tested."),
    "stops": ("Stop latency", "From the decision to each worker's last report."),
    "bill": (
        "What the bill counts",
        "Seconds of running instances, by what they did; each is billed 60 s at least.",
    ),
}


class Drawn(Protocol):
    """A picture as the page takes it."""

    @property
    def inline(self) -> tuple[str, ...]:
        """SVG elements: for a wide and a narrow page, or one for both."""


@dataclass(frozen=True)
class Figure:
    """A picture with its caption."""

    name: str
    title: str
    text: str
    drawings: tuple[str, ...]  # SVG elements; not escaped


def page(line: Timeline, pictures: Mapping[str, Drawn], logs: Iterable[str]) -> str:
    """Return the report as HTML.

    Args:
        pictures: by their names, see `CAPTIONS`; those that are not there are left out.
        logs: names of the files in the folder ``logs`` beside the report.
    """
    heading, remarks = report_facts.heading(line), report_facts.remarks(line)
    files = frozenset(logs)
    return _template().render(
        line=line,
        title=f"CND {line.run}: {heading.text}",
        heading=heading,
        tiles=report_facts.tiles(line),
        figures=_figures(line, pictures),
        phases=report_facts.phase_rows(line),
        facts=report_facts.facts(line),
        instances=[report_facts.history_row(each, files) for each in line.instances],
        remarks=remarks[:REMARKS],
        more_remarks=len(remarks) - REMARKS,
        folded_from=FOLDED,
        colors=COLORS,
        version=cnd.__version__,
    )


def _figures(line: Timeline, pictures: Mapping[str, Drawn]) -> list[Figure]:
    found = []
    for name, (title, text) in CAPTIONS.items():
        if name in pictures:
            note = report_facts.note(name, line)
            text = f"{text} {note}" if note else text
            found.append(Figure(name, title, text, pictures[name].inline))
    return found


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_bounded,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["css_class"] = lambda name: name.replace(" ", "-")
    return environment.get_template(TEMPLATE)


def _bounded(value: Any) -> Any:
    """Return a value of unknown origin as text of limited length."""
    if isinstance(value, Markup):
        return value  # made by the template itself
    text = harmless(str(value))
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"
