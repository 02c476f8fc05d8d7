"""The process that draws and uploads the report of a run that has just ended.

One rule: no command waits for it, and it ends within `LIMIT` seconds.  What it does not
achieve stands in its file of `run.pending_reports`, for the next command to report.

It is a program (``python -m cnd.view.report_process RUN LOCK``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from cnd.errors import CndError
from cnd.run import pending_reports, stored_files
from cnd.run.journal import Journal
from cnd.system import folders
from cnd.view import write_report

LIMIT = 60  # seconds
NICE = 5  # to be added to its priority: the user's next command comes first


def start(run: str) -> None:
    """Let a process of its own draw and upload the report of a run.

    Raises:
        OSError: none can be started, or its file cannot be written.
        UsageError: no home folder is known.
    """
    lock = pending_reports.begin(run)
    package = str(folders.above_package())
    search = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        subprocess.Popen(
            [sys.executable, "-m", __name__, run, str(lock)],
            # `-m` finds modules in the working folder first: here are none.
            cwd=pending_reports.folder(),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[lock],
            start_new_session=True,  # a terminal that is closed does not end it
        )
    except OSError:
        pending_reports.done(run)
        raise
    finally:
        os.close(lock)


def drawn(run: str) -> str:
    """Draw and upload the report of a run; return what went wrong, or ""."""
    journal = Journal(run)
    try:
        files = write_report.write(journal)
    except Exception as error:  # of any kind: the next command reports it
        kind = "" if isinstance(error, CndError) else f"{type(error).__name__}: "
        return f"no report: {kind}{error}; `fab report {run}` draws it"
    trouble = stored_files.upload(journal, files)
    return f"the report is not in S3: {trouble}" if trouble else ""


def main(run: str, lock: int, *, limit: int = LIMIT) -> None:
    """Draw a report in this process, which ends within `limit` seconds."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(limit)  # ends the process, whatever hangs
    os.nice(NICE)
    if trouble := drawn(run):
        pending_reports.give_reason(lock, trouble)
    else:
        pending_reports.done(run)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
