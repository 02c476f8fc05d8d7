"""A run's report and its figures as files in its folder.

One rule: only the folder of the run is touched.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cnd.errors import UsageError
from cnd.run.journal import Journal
from cnd.system import private_files
from cnd.view.timeline import Timeline, timeline

if TYPE_CHECKING:
    from cnd.view.figures import Picture

REPORT = "report.html"
FIGURES = "figures"
WITHOUT = "the report has no figures: they need matplotlib (pip install 'cnd[report]')"


def write(journal: Journal) -> dict[str, Path]:
    """Write the report of a run; return its files by their names in the folder.

    Without matplotlib there are no figures, and a line on stderr reports it.

    Raises:
        UsageError: the folder cannot be written to.
    """
    from cnd.view.html_report import page  # Jinja2: other commands do without it

    result = journal.result()
    history = None if result else list(journal.history())
    line = timeline(journal.run, journal.events(), result, history)
    pictures = _pictures(line)
    logs = [path.name for path in journal.logs.glob("*.log")]
    files: dict[str, str | bytes] = {REPORT: page(line, pictures, logs)}
    for name, picture in pictures.items():
        files[f"{FIGURES}/{name}.svg"] = picture.svg
        files[f"{FIGURES}/{name}.png"] = picture.png
    try:
        return {name: _put(journal.folder / name, data) for name, data in files.items()}
    except OSError as error:
        message = f"cannot write the report to {journal.folder}: {error.strerror}"
        raise UsageError(message, hint="make room there") from error


def _pictures(line: Timeline) -> Mapping[str, Picture]:
    if not line.instances:
        return {}
    try:
        from cnd.view import figures  # takes a second, and may not be installed
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print(WITHOUT, file=sys.stderr)
        return {}
    return figures.draw(line)


def _put(path: Path, data: str | bytes) -> Path:
    """Write a file, its folder included; return its path."""
    private_files.write(private_files.folder(path.parent) / path.name, data)
    return path


def written(journal: Journal) -> dict[str, Path]:
    """Return the files of a report that is there, as `write` does."""
    figures = sorted((journal.folder / FIGURES).glob("[!.]*"))
    paths = [journal.folder / REPORT, *figures]
    return {path.relative_to(journal.folder).as_posix(): path for path in paths}
