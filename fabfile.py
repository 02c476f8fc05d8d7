"""The tasks of CND, for the stock `fab` in a checkout."""

from cnd.tasks import bench, local, scram, start, status, stop, verify

__all__ = ["bench", "local", "scram", "start", "status", "stop", "verify"]
