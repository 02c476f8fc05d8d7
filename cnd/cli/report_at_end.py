"""The report of a run that has just ended: drawn and uploaded after the answer.

One rule: a failure costs the report, never the answer or the exit status of the run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from invoke.exceptions import Exit

from cnd.cli.output import say
from cnd.cli.task import shown
from cnd.cloud.connection import Cloud
from cnd.errors import CndError
from cnd.model.events import printable_line
from cnd.run import stored_files
from cnd.run.journal import Journal
from cnd.system import folders
from cnd.view import write_report

PATIENCE = 60.0  # seconds that drawing a report may take
NO_REPORT = "CND_REPORT"  # "0": a run writes no report


@contextlib.contextmanager
def reported(journal: Journal, cloud: Cloud, *, wanted: bool) -> Iterator[None]:
    """Write and upload the report of a run after the block, however the block ends.

    A failure of that is one line on stderr.  An error of the block is printed before.
    """
    try:
        yield
    except CndError as error:
        end = shown(error)
        print(end.message, file=sys.stderr)  # two lines, and harmless already
        raise Exit(code=end.code) from error
    finally:
        wanted = wanted and os.environ.get(NO_REPORT) != "0"
        if wanted and (trouble := _report(journal, cloud)):
            say(printable_line(f"{trouble}; `fab report {journal.run}` tries again"))


def _report(journal: Journal, cloud: Cloud) -> str:
    """Write and upload a report; return what went wrong, or ""."""
    program = [sys.executable, "-m", write_report.__name__, journal.run]
    search = [
        str(folders.above_package()),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    try:
        done = subprocess.run(
            program,
            cwd=journal.folder,  # `-m` finds modules in the working folder first
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        return f"no report: {type(error).__name__}"
    lines = done.stderr.strip().splitlines()
    if done.returncode:
        return f"no report: {lines[-1] if lines else f'status {done.returncode}'}"
    if lines:
        say(printable_line(lines[-1]))
    return _uploaded(journal, cloud)


def _uploaded(journal: Journal, cloud: Cloud) -> str:
    """Put a report beside the logs in S3; return what went wrong, or ""."""
    paths = [journal.folder / write_report.REPORT]
    paths += sorted((journal.folder / write_report.FIGURES).glob("*.???"))
    files = {path.relative_to(journal.folder).as_posix(): path for path in paths}
    trouble = stored_files.upload(journal, cloud, files)
    return f"the report is not in S3: {trouble}" if trouble else ""
