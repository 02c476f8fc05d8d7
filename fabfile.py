"""The tasks of CND, for the stock `fab` in a checkout."""

from cnd.cli.output import ignore_lost_readers
from cnd.cli.program import Executor, report_broken_settings
from cnd.cli.tasks_bench import bench
from cnd.cli.tasks_local import local
from cnd.cli.tasks_look import export, list_runs, logs, report
from cnd.cli.tasks_plan import clean, config, doctor, plan
from cnd.system import process_start, standard_streams
from cnd.system.folders import name_user
from cnd.tasks import attach, resume, scram, start, status, stop, verify

__all__ = [
    "attach",
    "bench",
    "clean",
    "config",
    "doctor",
    "export",
    "list_runs",
    "local",
    "logs",
    "plan",
    "report",
    "resume",
    "scram",
    "start",
    "status",
    "stop",
    "verify",
]

process_start.note()
standard_streams.prepare()
name_user()
report_broken_settings()
ignore_lost_readers()
Executor.leaves_at_once = True
