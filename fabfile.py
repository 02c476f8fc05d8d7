"""The tasks of CND, for the stock `fab` in a checkout."""

from cnd.tasks import attach, bench, local, scram, start, status, stop, verify

__all__ = ["attach", "bench", "local", "scram", "start", "status", "stop", "verify"]
