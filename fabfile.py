"""The tasks of CND, for the stock `fab` in a checkout."""

from cnd.tasks import local, scram, start, status, stop, verify

__all__ = ["local", "scram", "start", "status", "stop", "verify"]
