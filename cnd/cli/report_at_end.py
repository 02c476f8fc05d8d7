"""The report of a run that has just ended: begun after the answer, waited for by none.

One rule: a failure costs the report, never the answer or the exit status of the run.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from invoke.exceptions import Exit

from cnd.cli.output import say
from cnd.cli.task import shown
from cnd.errors import CndError
from cnd.model.events import printable_line
from cnd.run.journal import Journal
from cnd.view import report_process, write_report

NO_REPORT = "CND_REPORT"  # "0": a run writes no report


@contextlib.contextmanager
def reported(journal: Journal, *, wanted: bool) -> Iterator[None]:
    """Have the report of a run written after the block, however the block ends.

    An error of the block is printed before.
    """
    try:
        yield
    except CndError as error:
        end = shown(error)
        print(end.message, file=sys.stderr)  # two lines, and harmless already
        raise Exit(code=end.code) from error
    finally:
        if wanted and os.environ.get(NO_REPORT) != "0":
            _begin(journal.run)


def _begin(run: str) -> None:
    """Begin a report; what is known already to be missing is one line on stderr."""
    try:
        report_process.start(run)
    except (OSError, CndError) as error:
        say(printable_line(f"no report: {error}; `fab report {run}` draws it"))
        return
    if find_spec("matplotlib") is None:
        say(write_report.WITHOUT)
