"""The fork server: one process that forks a process per host, and kills them.

One rule: it has a single thread and blocks on its orders only, so that a fork is safe
and fast (about 10 ms per host; everything is imported before).  When its orders end,
the cloud's server is dead: the fork server kills all hosts and ends.

Run by `cnd.local.api.host_manager` as `python -m cnd.local.host.fork_server`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import shutil
import signal
import struct
import traceback
from collections import deque
from collections.abc import Iterable
from typing import NoReturn

from cnd.local.host import host, processes, vm, wire
from cnd.local.host.guard import guarded, log
from cnd.local.host.wire import HostSpec, Message

ORDERS, REPORTS = 0, 1
# More hosts at a time are not up sooner, and leave the cloud no time to answer: of 1000
# at once none was running after three minutes on two cores (measured).
BOOTING = 8 * (os.cpu_count() or 1)
PID = struct.Struct("i")


class ForkServer:
    """Forks hosts, applies faults to them, and kills them, as ordered."""

    def __init__(self) -> None:
        self._hosts: dict[str, tuple[int, str]] = {}  # instance id: pid, file tree
        self._stopped: dict[str, str] = {}  # instance id: file tree
        self._thawers: dict[int, int] = {}  # frozen host: process that thaws it (ids)
        self._waiting: deque[HostSpec] = deque()  # to boot
        self._booting: set[int] = set()  # process ids
        self._cleaners: set[int] = set()  # ids of processes that remove file trees
        self._booted_read, self._booted_write = os.pipe()
        self._life_read, self._life_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._ending = False
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, *_: object) -> None:
        self._ending = True

    def run(self) -> None:
        """Follow orders until there are no more."""
        lines = wire.MessageReader()
        with selectors.DefaultSelector() as selector:
            selector.register(ORDERS, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            selector.register(self._booted_read, selectors.EVENT_READ)
            while not self._ending:
                ready = {key.fd for key, _ in selector.select()}
                if self._wake_read in ready:
                    os.read(self._wake_read, 4096)
                    self._reap()
                if self._booted_read in ready:
                    (pid,) = PID.unpack(os.read(self._booted_read, PID.size))
                    self._booting.discard(pid)
                if ORDERS in ready:
                    data = os.read(ORDERS, 1 << 20)
                    if not data:
                        return
                    self._obey(list(lines.feed(data)))
                while self._waiting and len(self._booting) < BOOTING:
                    self._boot_or_lose(self._waiting.popleft())

    def _obey(self, orders: Iterable[Message]) -> None:
        """Boot hosts in order; kill hosts together, which is faster."""
        to_kill: dict[str, bool] = {}
        for order in orders:
            if order["kind"] == "boot":
                self._waiting.append(wire.spec_of(order))
            elif order["kind"] == "fault":
                with guarded(f"the fault {order}"):
                    self._apply_fault(order["id"], order["what"])
            else:
                to_kill |= dict.fromkeys(order["ids"], order["keep"])
        self._kill(to_kill)

    def _boot_or_lose(self, spec: HostSpec) -> None:
        """Boot a host, or report it lost if no process can be started for it."""
        try:
            self._boot(spec)
        except OSError as error:
            log(f"{spec.id}: {error}")
            self._stopped[spec.id] = spec.root
            wire.send(REPORTS, {"kind": "lost", "id": spec.id, "status": 0})

    def _boot(self, spec: HostSpec) -> None:
        pid = os.fork()
        if pid == 0:
            self._run_host(spec)
        self._hosts[spec.id] = pid, spec.root
        if not spec.delay:  # a host that only waits does not count as booting
            self._booting.add(pid)

    def _apply_fault(self, id: str, what: str) -> None:
        """Apply one of `faults.LIVE_KINDS` to a host, if it still lives.

        Of the faults of a host that waits to boot, only `kill` is applied.
        """
        waiting = {spec.id: spec for spec in self._waiting}
        if id in waiting and what == "kill":
            self._waiting.remove(waiting[id])
            self._stopped[id] = waiting[id].root
            wire.send(REPORTS, {"kind": "lost", "id": id, "status": 0})
        if id not in self._hosts:
            return
        pid, _ = self._hosts[id]
        if what == "kill":
            self._end_thawer(pid)
            processes.kill_trees([pid])  # `_reap` reports it lost
        elif what == "freeze":
            if pid not in self._thawers:
                self._thawers[pid] = self._start_thawer(pid)
            processes.signal_tree(pid, signal.SIGSTOP)
        elif what == "thaw":
            processes.signal_tree(pid, signal.SIGCONT)
            self._end_thawer(pid)
        elif what == "disk-full":
            processes.forbid_growth(pid)
        else:
            os.kill(pid, host.SIGNALS[what])

    def _start_thawer(self, pid: int) -> int:
        """Fork a process that thaws a host when this one dies, so that it can die too.

        What is frozen does not notice the signal that a parent's death sends.
        """
        guard = os.fork()
        if guard == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.close(self._life_write)
                for descriptor in (ORDERS, REPORTS):
                    os.dup2(self._wake_read, descriptor)  # keep neither pipe open
                os.read(self._life_read, 1)
                processes.signal_tree(pid, signal.SIGCONT)
            finally:
                os._exit(0)
        return guard

    def _end_thawer(self, pid: int) -> None:
        if guard := self._thawers.pop(pid, None):
            with contextlib.suppress(ProcessLookupError):
                os.kill(guard, signal.SIGKILL)

    def _run_host(self, spec: HostSpec) -> NoReturn:
        """In the forked child: run a host.  Never returns to the server's code."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            for descriptor in (self._life_write, self._wake_read, self._wake_write):
                os.close(descriptor)
            os.dup2(os.open(os.devnull, os.O_RDWR), ORDERS)
            serve = vm.serve if spec.image else host.serve
            serve(
                spec,
                lambda report: wire.send(REPORTS, report),
                self._life_read,
                self._report_booted,
            )
        except BaseException:
            log(traceback.format_exc())
        finally:
            # Every failure ends this process here, with its reason in the log: as a
            # second fork server it would kill all hosts.
            os._exit(1)

    def _report_booted(self) -> None:
        """In the child: let the fork server boot another host."""
        os.write(self._booted_write, PID.pack(os.getpid()))

    def _kill(self, to_kill: dict[str, bool]) -> None:
        left = [spec for spec in self._waiting if spec.id not in to_kill]
        self._waiting = deque(left)
        found = {id: self._hosts.pop(id) for id in to_kill if id in self._hosts}
        self._booting -= {pid for pid, _ in found.values()}
        for pid, _ in found.values():
            self._end_thawer(pid)
        processes.kill_trees(pid for pid, _ in found.values())
        for id, (pid, root) in found.items():
            os.waitpid(pid, 0)
            self._stopped[id] = root
        for id in to_kill:
            wire.send(REPORTS, {"kind": "down", "id": id})
        lost = [id for id, keep in to_kill.items() if not keep and id in self._stopped]
        if lost:
            with guarded("removing file trees"):
                self._clean_up([self._stopped.pop(id) for id in lost])

    def _clean_up(self, trees: list[str]) -> None:
        """Remove file trees in a process of its own.

        Removing a tree takes longer than killing a host, and a fleet has hundreds: the
        reports and the next launch do not wait for it.
        """
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                processes.die_with_parent()
                for tree in trees:
                    shutil.rmtree(tree, ignore_errors=True)
            finally:
                os._exit(0)
        self._cleaners.add(pid)

    def _reap(self) -> None:
        """Report hosts that died by themselves, and kill the processes they left."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                self._cleaners.discard(pid)
                for id, (host_pid, _) in list(self._hosts.items()):
                    if host_pid == pid:
                        self._booting.discard(pid)
                        self._end_thawer(pid)
                        self._stopped[id] = self._hosts.pop(id)[1]
                        report = {"kind": "lost", "id": id, "status": status}
                        wire.send(REPORTS, report)
        known = {pid for pid, _ in self._hosts.values()} | {*self._thawers.values()}
        known |= self._cleaners
        adopted = set(processes.children(os.getpid())) - known
        processes.kill_trees(adopted)

    def end(self) -> None:
        roots = [pid for pid, _ in self._hosts.values()]
        for pid in list(self._thawers):
            self._end_thawer(pid)
        processes.kill_trees(roots)
        for pid in roots:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def main() -> None:
    os.umask(0o022)  # as on a real host; only the user may enter the folder of trees
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.become_subreaper()
    processes.die_with_parent()
    gc.collect()
    gc.freeze()  # keeps the memory of the imports shared with the hosts
    server = ForkServer()
    try:
        with contextlib.suppress(BrokenPipeError, OSError):
            server.run()
    finally:
        server.end()


if __name__ == "__main__":
    main()
