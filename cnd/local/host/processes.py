"""Process trees: start a child, wait for its end, kill all its descendants.

One rule: no process that a host started outlives it, even if it called `setsid`.  On
Linux a host adopts its orphaned processes, so that every descendant stays in its tree;
on other systems this is a best effort by parent process ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

# From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

LINUX = sys.platform == "linux"
# Nice level of the sessions that a host starts: lower priority than the hosts.
SESSION_NICE = 7
KILL_SECONDS = 5.0  # a process in an uninterruptible wait may take as long
DEATH_SECONDS = 0.001  # between two looks: what was killed needs the processor, too


def become_subreaper() -> None:
    """Become the parent of every descendant whose own parent has died."""
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Get SIGTERM when the parent dies (more exactly: its forking thread)."""
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def set_nice(session: int, nice: int) -> None:
    """Lower the priority of a session's processes (by its leader's id).

    If Linux groups processes by session, "nice" counts within a session only, and a
    session has a nice level of its own (sched(7), autogroup).  Best effort.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{session}/autogroup").write_text(str(nice))


def kill_trees(roots: Iterable[int], *, spare_roots: bool = False) -> None:
    """Kill the processes `roots` and all their descendants; return when done.

    The roots are stopped first: a stopped process cannot fork, but still adopts
    orphans, so that the search for descendants ends.  With `spare_roots` the roots are
    neither stopped nor killed: for a process that clears its own tree.
    """
    roots = list(roots)
    if not spare_roots:
        for root in roots:
            _send(root, signal.SIGSTOP)
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline:
        alive = [pid for pid in _descendants(roots) if _is_alive(pid)]
        if not alive:
            break
        for pid in alive:
            _send(pid, signal.SIGKILL)
        time.sleep(DEATH_SECONDS)
    if not spare_roots:
        for root in roots:
            _send(root, signal.SIGKILL)


def signal_tree(root: int, number: signal.Signals) -> None:
    """Send a signal to a process and all its descendants, new ones included."""
    signalled: set[int] = set()
    while new := {root, *_descendants([root])} - signalled:
        for pid in new:
            _send(pid, number)
        signalled |= new


def forbid_growth(root: int) -> None:
    """Let no file grow any more that a process or its descendants write.

    This comes closest to a full disk without special rights: a write fails with EFBIG,
    or ends a program that does not expect that (SIGXFSZ).  Linux only.
    """
    for pid in [root, *_descendants([root])]:
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))


def children(pid: int) -> list[int]:
    """Return the process ids of the direct children of `pid`."""
    return _descendants([pid], levels=1)


def _descendants(roots: Sequence[int], *, levels: int | None = None) -> list[int]:
    family = _children_by_proc if LINUX else _children_by_ps()
    found: list[int] = []
    level = list(roots)
    while level and levels != 0:
        level = [child for pid in level for child in family(pid)]
        found += level
        levels = None if levels is None else levels - 1
    return found


def _children_by_proc(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []  # it has ended
    return [int(word) for word in text.split()]


def _children_by_ps() -> Callable[[int], list[int]]:
    listing = subprocess.run(
        ["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, timeout=10
    )
    family: defaultdict[int, list[int]] = defaultdict(list)
    for line in listing.stdout.splitlines():
        pid, parent = line.split()
        family[int(parent)].append(int(pid))
    return family.__getitem__


def _is_alive(pid: int) -> bool:
    """Tell whether `pid` still runs; a zombie is dead and waits to be reaped."""
    if not LINUX:
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Children:
    """The children of an asyncio process that also adopts orphaned processes.

    asyncio's own subprocesses cannot be used: the adopted processes must be reaped, and
    a wait for "any child" would take the exit statuses from asyncio.
    """

    def __init__(self) -> None:
        self._running: dict[
            int, tuple[subprocess.Popen[bytes], asyncio.Future[int]]
        ] = {}
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        before_exec: Callable[[], None] | None = None,
    ) -> tuple[int, asyncio.Future[int]]:
        """Start `argv` in a session of its own, with a low priority.

        Returns its process id, and a future of the exit status, or of minus the signal
        that ended it.  Raises OSError if it cannot be started.
        """
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=before_exec,
        )
        set_nice(child.pid, SESSION_NICE)
        ended = asyncio.get_running_loop().create_future()
        self._running[child.pid] = child, ended
        return child.pid, ended

    def lower_adopted(self) -> None:
        """Lower the priority of processes that commands have left behind."""
        for pid in children(os.getpid()):
            if pid not in self._running:
                set_nice(pid, SESSION_NICE)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid not in self._running:
                    continue  # an adopted process
                child, ended = self._running.pop(pid)
                child.returncode = os.waitstatus_to_exitcode(status)
                if not ended.done():
                    ended.set_result(child.returncode)
