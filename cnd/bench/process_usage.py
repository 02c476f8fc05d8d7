"""What a program takes of this machine: time, processor, memory, threads.

One rule: it only looks.  A child is followed to its end through ``/proc`` (proc(5)),
and its own account of the processor's time is the kernel's (wait4(2)); what its
children took is in it, what others took is not.  Linux only.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cnd.errors import HostError, UsageError

LOOK = 0.05  # seconds between two looks at a child
END_PATIENCE = 120.0  # seconds for a child that was asked to end: a fleet's end
PROC = Path("/proc")


@dataclass(frozen=True)
class Footprint:
    """What one process took, from its start to its end."""

    output: str  # what it printed to stdout
    seconds: float  # of wall time
    processor: float  # seconds, in user and system mode
    memory: int  # bytes, at their most
    threads: int  # at their most, as seen every `LOOK` seconds


def require() -> None:
    """Raise UsageError where the system does not tell what a process takes."""
    if not (PROC / "self" / "status").exists():
        raise UsageError("bench scale needs Linux: it reads /proc")


def follow(command: Sequence[str], *, patience: float) -> Footprint:
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
            if child.returncode is None:  # we were interrupted: it ends in order
                child.terminate()
                _reap(child)
        seconds = time.monotonic() - began
        if status:
            message = f"ended with status {status}: {_last_line(_read(err))}"
            raise HostError("the run", message)
        return Footprint(_read(out), seconds, processor, memory, threads)


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Wait for a child that was asked to end; one that does not is killed."""
    try:
        child.wait(END_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _watched(pid: int, deadline: float) -> tuple[int, float, int, int]:
    """Wait for a child; return status, processor time, and most memory and threads."""
    memory = threads = 0
    while time.monotonic() < deadline:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code, usage.ru_utime + usage.ru_stime, memory, threads
        # Not `ru_maxrss`, which begins with what its parent had when it forked.
        now = status_of((PROC / str(pid) / "status").read_text())
        memory, threads = max(memory, now[0]), max(threads, now[1])
        time.sleep(LOOK)
    raise HostError("the run", "was not over in time")


def status_of(text: str) -> tuple[int, int]:
    """Return the most memory so far (bytes) and the threads in ``/proc/PID/status``.

    A process that is about to end has no memory any more: 0.
    """
    memory = re.search(r"^VmHWM:\s*(\d+) kB$", text, re.M)
    threads = re.search(r"^Threads:\s*(\d+)$", text, re.M)
    return (
        1024 * int(memory[1]) if memory else 0,
        int(threads[1]) if threads else 0,
    )


@dataclass(frozen=True)
class Process:
    """One process, as ``/proc/PID/stat`` tells."""

    pid: int
    parent: int
    ticks: int  # of the processor, those of its children that it has reaped included


def stat_of(text: str) -> Process:
    """Read ``/proc/PID/stat``; the program's name may hold blanks and brackets."""
    before, _, after = text.rpartition(")")
    fields = after.split()
    return Process(
        int(before.split(" ", 1)[0]), int(fields[1]), sum(map(int, fields[11:15]))
    )


def tree_ticks(processes: Sequence[Process], root: int) -> int:
    """Return the ticks of a process and of all that descend from it, dead or alive."""
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
    total = sum(process.ticks for process in processes if process.pid == root)
    left = [root]
    while left:
        found = children.get(left.pop(), [])
        total += sum(process.ticks for process in found)
        left += [process.pid for process in found]
    return total


def tree_seconds(root: int, listed: Sequence[Process]) -> float:
    """Return the processor time of a process with all its descendants, in seconds."""
    return tree_ticks(listed, root) / os.sysconf("SC_CLK_TCK")


def processes() -> list[Process]:
    """Return all processes of this machine that are there to be read."""
    found = []
    for folder in PROC.glob("[0-9]*"):
        try:
            found.append(stat_of((folder / "stat").read_text()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return found


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
