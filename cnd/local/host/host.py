"""One host of the local cloud, from power-on to power-off: a process of its own.

One rule: `serve` boots as a cloud image does, in the same order: early user data
(bootcmd, files, keys), then SSH, then the late part (runcmd, scripts).  The
instance counts as running when SSH answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import asyncssh

from cnd.local.host import cloudinit, metadata, processes, sshd, tree
from cnd.local.host.cloudinit import UserData
from cnd.local.host.init import Init, Reply
from cnd.local.host.paths import in_tree, map_paths
from cnd.local.host.wire import HostSpec, Message

# Signals by which the fork server applies a fault: see faults.LIVE_KINDS.
SIGNALS = {"cut": signal.SIGUSR1, "no-sshd": signal.SIGUSR2}
# Nice levels: hosts must not slow down their user's programs, and hosts that boot must
# not slow down those that work.
BOOTING, UP = 15, 5
# Closing such a connection resets it (socket(7)).
NO_LINGER = struct.pack("ii", 1, 0)
UMASK = 0o022  # as on a real host; the user's other files are protected by the folder
CLOUD_INIT_LOG = "var/log/cloud-init-output.log"


def serve(
    spec: HostSpec,
    report: Callable[[Message], None],
    life: int,
    booted: Callable[[], None],
) -> None:
    """Run the host until it is killed.

    Args:
        report: sends a report to the server.
        life: a pipe that closes when the fork server ends; the host then ends, too.
        booted: lets the fork server boot another host.
    """
    processes.become_subreaper()
    processes.die_with_parent()
    os.umask(UMASK)
    if spec.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec.cpus)
    processes.set_nice(os.getpid(), BOOTING)
    asyncio.run(_Host(spec, report, booted).live(life))


class _Host:
    def __init__(
        self,
        spec: HostSpec,
        report: Callable[[Message], None],
        booted: Callable[[], None],
    ) -> None:
        self._spec, self._report, self._booted = spec, report, booted
        self._root = Path(spec.root)
        self._listener: sshd.LazyListener | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()

    async def live(self, life: int) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end)
        loop.add_reader(life, self._end)
        loop.add_signal_handler(SIGNALS["cut"], self._cut)
        loop.add_signal_handler(SIGNALS["no-sshd"], self._lose_sshd)
        self._children = processes.Children()
        await asyncio.sleep(self._spec.delay)
        await self._boot()
        await asyncio.get_running_loop().create_future()  # until killed

    async def _boot(self) -> None:
        url = await metadata.listen(self._spec)
        self._spec = replace(self._spec, metadata=url)
        tree.build(self._spec)
        self._log("kernel", f"Linux version {platform.release()} (local cloud)")
        self._init = Init(
            self._root,
            run=self._run_as_root,
            power_off=self._power_off,
            halt=self._halt,
            log=self._log,
        )
        self._listen_to_programs()
        user_data = cloudinit.parse(self._spec.user_data)
        self._log("cloud-init", f"running 'init' at {time.strftime('%c')}")
        for remark in user_data.remarks:
            self._log("cloud-init", f"[WARNING]: {remark}")
        await self._script("bootcmd", user_data.bootcmd)
        self._write_files(user_data)
        key = self._host_key(user_data.host_key)
        public = key.export_public_key().decode().split()[:2]
        up = {"kind": "up", "id": self._spec.id, "host_key": " ".join(public)}
        if self._spec.fault in ("never-boots", "boots-late", "mute"):
            self._report(up)  # on AWS such an instance is running, too
            self._booted()
            await self._apply_fault(self._spec.fault)
        if self._spec.fault != "no-key":
            self._authorize(user_data.authorized_keys)
        self._listener = sshd.listen(
            self._spec, key, self._children, self._log, self._connections
        )
        self._log("sshd", f"Server listening on {self._spec.address}.")
        processes.set_nice(os.getpid(), UP)
        self._init.booted = True
        (self._root / "run/cnd/booted").touch()
        self._report(up)
        self._booted()
        if self._spec.fault == "no-key":
            await asyncio.sleep(self._spec.fault_seconds)
            self._authorize(user_data.authorized_keys)
        await self._script("runcmd", user_data.runcmd)
        await self._script("user script", user_data.script)
        (self._root / "run/cnd/cloud-init-done").touch()
        self._log("cloud-init", "Cloud-init finished")

    # Faults.

    async def _apply_fault(self, fault: str) -> None:
        """Delay the boot, or stop it for ever."""
        if fault == "mute":
            held: list[object] = []  # without a reference a connection is closed
            await asyncio.start_server(
                lambda *streams: held.append(streams),
                self._spec.address,
                self._spec.port,
            )
        if fault != "boots-late":
            await asyncio.get_running_loop().create_future()  # until killed
        await asyncio.sleep(self._spec.fault_seconds)

    def _cut(self) -> None:
        for connection in list(self._connections):
            link = connection.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            connection.abort()

    def _lose_sshd(self) -> None:
        if self._listener:
            self._listener.close()
        self._cut()

    # User data.

    async def _script(self, step: str, text: str) -> None:
        """Run a script as cloud-init does: from a file, with output to its log."""
        if not text:
            return
        path = self._root / "run/cnd" / step.replace(" ", "-")
        path.write_text(map_paths(text, self._spec.root, tree.PROGRAMS))
        path.chmod(0o700)
        try:
            status = await self._run_as_root([str(path)])
        except OSError as error:
            self._log("cloud-init", f"[WARNING]: {step}: {error}")
            return
        self._log("cloud-init", f"{step}: exit status {status}")

    async def _run_as_root(self, command: Sequence[str]) -> int:
        """Run a command outside of any session; its output goes to cloud-init's log."""
        with open(self._root / CLOUD_INIT_LOG, "ab") as output:
            _, ended = self._children.start(
                [map_paths(word, self._spec.root, tree.PROGRAMS) for word in command],
                cwd=self._spec.root,
                env=tree.environment(self._spec, "root"),
                stdout=output.fileno(),
                stderr=output.fileno(),
            )
        return await ended

    def _write_files(self, user_data: UserData) -> None:
        for file in user_data.files:
            path = Path(in_tree(file.path, self._spec.root))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "ab" if file.append else "wb") as target:
                    text = not file.encoded
                    target.write(self._mapped(file.content) if text else file.content)
                path.chmod(file.permissions)
            except OSError as error:
                self._log("cloud-init", f"[WARNING]: write_files: {error}")
        if user_data.files:
            self._log("cloud-init", f"write_files: {len(user_data.files)} entries")

    def _mapped(self, content: bytes) -> bytes:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return content
        return map_paths(text, self._spec.root, tree.PROGRAMS).encode()

    # Keys.

    def _host_key(self, private: str) -> asyncssh.SSHKey:
        if private:
            try:
                return asyncssh.import_private_key(private)
            except asyncssh.KeyImportError as error:
                self._log("cloud-init", f"[WARNING]: ssh_keys: {error}")
        return asyncssh.generate_private_key("ssh-ed25519")

    def _authorize(self, keys: Sequence[str]) -> None:
        path = Path(tree.home(self._spec), ".ssh/authorized_keys")
        lines = [self._spec.public_key, *keys]
        path.write_text("".join(line.strip() + "\n" for line in lines if line))
        path.chmod(0o600)

    # The programs of /bin (shims/control).

    def _listen_to_programs(self) -> None:
        # Open for writing as well, so that the pipe never ends.
        pipe = os.open(self._root / "run/cnd/control", os.O_RDWR | os.O_NONBLOCK)
        self._requests: set[asyncio.Task[None]] = set()
        rest = b""

        def arrived() -> None:
            nonlocal rest
            *lines, rest = (rest + os.read(pipe, 65536)).split(b"\n")
            for line in lines:
                task = asyncio.create_task(self._answer(line.decode(errors="replace")))
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)

        asyncio.get_running_loop().add_reader(pipe, arrived)

    async def _answer(self, line: str) -> None:
        reply_to, program, *words = line.split("\t")
        # At once, while the process is sure to be the one whose number it names.
        try:
            pipe = os.open(reply_to, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # the program has been killed meanwhile
            pipe = os.open(os.devnull, os.O_WRONLY)
        with open(pipe, "wb", buffering=0) as target:
            reply: Reply = await self._init.request(program, words)
            # A dash before each line, as a line with only a dot ends the reply.
            lines = [str(reply.status)]
            lines += ["-" + text for text in reply.text.splitlines()] + ["."]
            with contextlib.suppress(OSError):
                target.write("".join(text + "\n" for text in lines).encode())

    # The end.

    def _power_off(self) -> None:
        """Report to the cloud that this host powers off; the cloud ends it."""
        self._log("systemd", "Powering off.")
        self._report({"kind": "poweroff", "id": self._spec.id})

    def _halt(self) -> None:
        self._log("systemd", "System halted.")
        if self._listener:
            self._listener.close()
        processes.kill_trees([os.getpid()], spare_roots=True)

    def _end(self) -> None:
        processes.kill_trees([os.getpid()], spare_roots=True)
        os._exit(0)

    def _log(self, tag: str, text: str) -> None:
        """Append a line in rsyslog's traditional format."""
        pid = "" if tag == "kernel" else f"[{os.getpid()}]"
        stamp = time.strftime("%b %e %H:%M:%S")
        line = f"{stamp} {self._spec.hostname} {tag}{pid}: {text}\n"
        # On a full disk the line is lost, as with rsyslog.
        with (
            contextlib.suppress(OSError),
            open(self._root / "var/log/syslog", "a", encoding="utf-8") as syslog,
        ):
            syslog.write(line)
