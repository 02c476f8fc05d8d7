"""What a program takes of this machine: time, processor, memory, threads.

One rule: it only looks.  The processor time of a child is what the kernel accounts to
it at its end (wait4(2)): that of its own children is in it, that of others is not.
Linux only: other systems do not report what ended children took.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from cnd.errors import HostError, UsageError

LOOK = 0.05  # seconds between two looks at a child
END_PATIENCE = 120.0  # seconds for a child that was asked to end: a fleet's end


@dataclass(frozen=True)
class ProcessUsage:
    """What one process took, from its start to its end."""

    output: str  # what it printed to stdout
    seconds: float  # of wall time
    processor: float  # seconds, in user and system mode
    memory: int  # resident bytes, at their most, as seen every `LOOK` seconds
    threads: int  # at their most, as seen every `LOOK` seconds


def require() -> None:
    """Raise UsageError where processes cannot be measured."""
    if sys.platform != "linux":
        raise UsageError("bench scale needs Linux, to measure what a process takes")
    try:
        import psutil  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "psutil":
            raise
        hint = "pip install 'cnd[bench]'"
        raise UsageError("bench scale needs psutil", hint=hint) from error


def follow(command: Sequence[str], *, patience: float) -> ProcessUsage:
    """Run a program to its end; return what it took.

    Args:
        patience: seconds until it is asked to end.

    Raises:
        HostError: it failed, or was not over in time.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        try:
            status, processor, memory, threads = _watched(child.pid, began + patience)
            child.returncode = status  # it is reaped
        finally:
            if child.returncode is None:  # this process was interrupted
                child.terminate()
                _reap(child)
        seconds = time.monotonic() - began
        if status:
            message = f"ended with status {status}: {_last_line(_read(err))}"
            raise HostError("the run", message)
        return ProcessUsage(_read(out), seconds, processor, memory, threads)


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Wait for a child that was asked to end; one that does not is killed."""
    try:
        child.wait(END_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _watched(pid: int, deadline: float) -> tuple[int, float, int, int]:
    """Wait for a child; return status, processor time, and most memory and threads."""
    import psutil  # an extra: see `require`

    memory = threads = 0
    seen = psutil.Process(pid)
    while time.monotonic() < deadline:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code, usage.ru_utime + usage.ru_stime, memory, threads
        # Not `ru_maxrss`, which begins with what its parent had when it forked.
        with contextlib.suppress(psutil.NoSuchProcess), seen.oneshot():
            memory = max(memory, seen.memory_info().rss)
            threads = max(threads, seen.num_threads())
        time.sleep(LOOK)
    raise HostError("the run", "was not over in time")


def tree_seconds(root: int) -> float:
    """Return the processor seconds of a process and of all that descend from it.

    Those that a process of the tree has reaped are counted with it.  A process that
    is gone counts nothing.
    """
    import psutil  # an extra: see `require`

    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(root)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                took = each.cpu_times()
                total += took.user + took.system
                total += took.children_user + took.children_system
    return total


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed nothing"])[-1]
