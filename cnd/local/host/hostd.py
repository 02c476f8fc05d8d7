"""The fork server: one process that forks a process per host, and kills them.

One rule: it is single-threaded and blocks on nothing but its orders, so that a
fork is safe and quick (about 10 ms a host; everything is imported before).  When
its orders end, whoever gave them is dead: all hosts die, then it does.

Run by `cnd.local.api.fleet` as `python -m cnd.local.host.hostd`.
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
from cnd.local.host.guard import guarded, say
from cnd.local.host.wire import HostSpec, Message

ORDERS, REPORTS = 0, 1
# More at the same time come up no sooner, and leave the cloud no time to answer: of
# 1000 at once none was seen running after three minutes on two cores (measured).
BOOTING = 8 * (os.cpu_count() or 1)
PID = struct.Struct("i")


class ForkServer:
    def __init__(self) -> None:
        self._hosts: dict[str, tuple[int, str]] = {}  # instance id: pid, file tree
        self._stopped: dict[str, str] = {}  # instance id: file tree
        self._guards: dict[int, int] = {}  # frozen host: who thaws it at the end
        self._waiting: deque[HostSpec] = deque()  # to boot
        self._booting: set[int] = set()  # process ids
        self._cleaners: set[int] = set()  # those of who removes file trees
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
        lines = wire.Lines()
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
        """Boot in order; kill together, which is quicker."""
        doomed: dict[str, bool] = {}
        for order in orders:
            if order["kind"] == "boot":
                self._waiting.append(wire.spec_of(order))
            elif order["kind"] == "fault":
                with guarded(f"the fault {order}"):
                    self._befall(order["id"], order["what"])
            else:
                doomed |= dict.fromkeys(order["ids"], order["keep"])
        self._kill(doomed)

    def _boot_or_lose(self, spec: HostSpec) -> None:
        """Boot a host; where no process can be had for it, it is lost."""
        try:
            self._boot(spec)
        except OSError as error:
            say(f"{spec.id}: {error}")
            self._stopped[spec.id] = spec.root
            wire.send(REPORTS, {"kind": "lost", "id": spec.id, "status": 0})

    def _boot(self, spec: HostSpec) -> None:
        pid = os.fork()
        if pid == 0:
            self._become(spec)
        self._hosts[spec.id] = pid, spec.root
        if not spec.delay:  # one that only waits keeps nobody from booting
            self._booting.add(pid)

    def _befall(self, id: str, what: str) -> None:
        """Let one of `faults.LIVE_KINDS` happen to a host, if it still lives.

        Of those to one that waits for its turn to boot, it heeds only its death.
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
            self._dismiss_guard(pid)
            processes.kill_trees([pid])  # `_reap` reports it lost
        elif what == "freeze":
            if pid not in self._guards:
                self._guards[pid] = self._post_guard(pid)
            processes.signal_tree(pid, signal.SIGSTOP)
        elif what == "thaw":
            processes.signal_tree(pid, signal.SIGCONT)
            self._dismiss_guard(pid)
        elif what == "disk-full":
            processes.forbid_growth(pid)
        else:
            os.kill(pid, host.SIGNALS[what])

    def _post_guard(self, pid: int) -> int:
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
                    os.dup2(self._wake_read, descriptor)  # neither may look alive
                os.read(self._life_read, 1)
                processes.signal_tree(pid, signal.SIGCONT)
            finally:
                os._exit(0)
        return guard

    def _dismiss_guard(self, pid: int) -> None:
        if guard := self._guards.pop(pid, None):
            with contextlib.suppress(ProcessLookupError):
                os.kill(guard, signal.SIGKILL)

    def _become(self, spec: HostSpec) -> NoReturn:
        """In the forked child: be a host.  Never returns into the server's code."""
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
                self._tell_booted,
            )
        except BaseException:
            say(traceback.format_exc())
        finally:
            # Whatever happened ends this process here, with its reason in the log: as
            # a second fork server it would end all hosts.
            os._exit(1)

    def _tell_booted(self) -> None:
        """In the child: let another host boot."""
        os.write(self._booted_write, PID.pack(os.getpid()))

    def _kill(self, doomed: dict[str, bool]) -> None:
        left = [spec for spec in self._waiting if spec.id not in doomed]
        self._waiting = deque(left)
        found = {id: self._hosts.pop(id) for id in doomed if id in self._hosts}
        self._booting -= {pid for pid, _ in found.values()}
        for pid, _ in found.values():
            self._dismiss_guard(pid)
        processes.kill_trees(pid for pid, _ in found.values())
        for id, (pid, root) in found.items():
            os.waitpid(pid, 0)
            self._stopped[id] = root
        for id in doomed:
            wire.send(REPORTS, {"kind": "down", "id": id})
        lost = [id for id, keep in doomed.items() if not keep and id in self._stopped]
        if lost:
            with guarded("the file trees of those that are gone"):
                self._clean_up([self._stopped.pop(id) for id in lost])

    def _clean_up(self, trees: list[str]) -> None:
        """Remove file trees in a process of its own.

        A tree takes longer than the host's processes did, and a fleet has hundreds:
        neither the word that they are down nor the next fleet waits for that.
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
        """Take note of hosts that died by themselves, and end what they left."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                self._cleaners.discard(pid)
                for id, (host_pid, _) in list(self._hosts.items()):
                    if host_pid == pid:
                        self._booting.discard(pid)
                        self._dismiss_guard(pid)
                        self._stopped[id] = self._hosts.pop(id)[1]
                        report = {"kind": "lost", "id": id, "status": status}
                        wire.send(REPORTS, report)
        known = {pid for pid, _ in self._hosts.values()} | {*self._guards.values()}
        known |= self._cleaners
        orphans = set(processes.children(os.getpid())) - known
        processes.kill_trees(orphans)

    def end(self) -> None:
        roots = [pid for pid, _ in self._hosts.values()]
        for pid in list(self._guards):
            self._dismiss_guard(pid)
        processes.kill_trees(roots)
        for pid in roots:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def main() -> None:
    os.umask(0o022)  # as on the images; the trees lie in a folder that only we enter
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.adopt_orphans()
    processes.die_with_parent()
    gc.collect()
    gc.freeze()  # keeps the pages of what was imported shared with the hosts
    server = ForkServer()
    try:
        with contextlib.suppress(BrokenPipeError, OSError):
            server.run()
    finally:
        server.end()


if __name__ == "__main__":
    main()
