"""The tasks of CND, for the stock `fab` in a checkout."""

from cnd.cli.program import let_readers_go, own_up_to_settings
from cnd.cli.tasks_bench import bench
from cnd.cli.tasks_look import export, list_runs, logs, report
from cnd.cli.tasks_plan import clean, config, doctor, plan
from cnd.system import standard_streams
from cnd.system.folders import name_user
from cnd.tasks import attach, local, scram, start, status, stop, verify

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

standard_streams.prepare()
name_user()
own_up_to_settings()
let_readers_go()
