"""The tasks of CND, for the stock `fab` in a checkout."""

from cnd.tasks import attach, bench, local, scram, start, status, stop, verify
from cnd.tasks_plan import clean, config, doctor, plan

__all__ = [
    "attach",
    "bench",
    "clean",
    "config",
    "doctor",
    "local",
    "plan",
    "scram",
    "start",
    "status",
    "stop",
    "verify",
]
