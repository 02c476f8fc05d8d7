"""The tasks of CND, for the stock `fab` in a checkout."""

from cnd import streams
from cnd.cli import let_readers_go, own_up_to_settings
from cnd.home import name_user
from cnd.tasks import attach, local, scram, start, status, stop, verify
from cnd.tasks_bench import bench
from cnd.tasks_look import export, list_runs, logs, report
from cnd.tasks_plan import clean, config, doctor, plan

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
    "scram",
    "start",
    "status",
    "stop",
    "verify",
]

streams.prepare()
name_user()
own_up_to_settings()
let_readers_go()
