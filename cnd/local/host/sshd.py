"""The SSH and SFTP server of one host.

One rule: for CND and its users it behaves as OpenSSH does: a dropped connection ends a
command's input but not the command, all output is sent before the exit status, and
relative paths mean the same in SFTP and in the shell.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import posixpath
import pty
import signal
import socket
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import asyncssh
from asyncssh.constants import MSG_IGNORE

from cnd.local.host import tree
from cnd.local.host.paths import map_paths
from cnd.local.host.processes import Children
from cnd.local.host.wire import HostSpec

CHUNK = 65536
# Two names of one method: old clients know only the second.
KEY_EXCHANGES = ("curve25519-sha256", "curve25519-sha256@libssh.org")
# Commands get a lower priority than the hosts, which share the machine with them.
NICE = ("nice", "-n", "5")
Log = Callable[[str, str], None]


class LazyListener:
    """The SSH port, open at once; the first connection makes the server behind it.

    The server takes 4 of a host's 9 MB (measured), which a host without connections
    does not need.
    """

    def __init__(
        self,
        spec: HostSpec,
        serve: Callable[[socket.socket], Awaitable[asyncssh.SSHAcceptor]],
    ) -> None:
        """Listen at the host's address; raises OSError if that cannot be."""
        self._serve = serve
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._socket = socket.create_server((spec.address, spec.port), backlog=128)
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._on_first_connection)

    def close(self) -> None:
        """Accept no connection any more."""
        if self._acceptor:
            self._acceptor.close()  # closes the socket, too
        else:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def _on_first_connection(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._opening = loop.create_task(self._open())

    async def _open(self) -> None:
        self._acceptor = await self._serve(self._socket)


def listen(
    spec: HostSpec,
    key: asyncssh.SSHKey,
    children: Children,
    log: Log,
    connections: set[asyncssh.SSHServerConnection],
) -> LazyListener:
    """Start to listen at the host's address; raises OSError if that fails.

    `connections`: the open ones, updated from now on.
    """

    async def serve(sock: socket.socket) -> asyncssh.SSHAcceptor:
        return await _serve(sock, spec, key, children, log, connections)

    return LazyListener(spec, serve)


async def _serve(
    sock: socket.socket,
    spec: HostSpec,
    key: asyncssh.SSHKey,
    children: Children,
    log: Log,
    connections: set[asyncssh.SSHServerConnection],
) -> asyncssh.SSHAcceptor:
    def files(channel: asyncssh.SSHServerChannel[bytes]) -> SftpServer:
        return SftpServer(channel, spec)

    async def session(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await _Session(spec, children, process).run()

    return await asyncssh.listen(
        sock=sock,
        server_factory=lambda: _SshServer(spec, log, connections),
        server_host_keys=[key],
        process_factory=session,
        sftp_factory=files,
        allow_scp=True,
        encoding=None,
        line_editor=False,
        kex_algs=KEY_EXCHANGES,
        compression_algs=None,
        gss_host=None,
        password_auth=False,
        kbdint_auth=False,
        backlog=128,
        login_timeout=120,
        server_version="CND",
    )


# The descriptors of a command's input, its output and its messages.
_Pipes: TypeAlias = "tuple[int, int, int | None]"


class _SshServer(asyncssh.SSHServer):
    """Accepts the image's login user, with a key of its authorized_keys file."""

    def __init__(
        self,
        spec: HostSpec,
        log: Log,
        connections: set[asyncssh.SSHServerConnection],
    ) -> None:
        self._spec, self._log = spec, log
        self._connections = connections
        self._from = ""
        self._key_text = ""
        self._user: str | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)
        address, port = conn.get_extra_info("peername")[:2]
        self._from = f"{address} port {port}"

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self._connection)
        if self._user:
            self._log(
                "sshd",
                f"pam_unix(sshd:session): session closed for user {self._user}",
            )

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        """Allow TCP forwarding, as sshd does by default: the host is a jump host."""
        return True

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        allowed = username == self._spec.user and key in authorized_keys(self._spec)
        if not allowed:
            self._log("sshd", f"Failed publickey for {username} from {self._from} ssh2")
            return False
        kind = key.get_algorithm().removeprefix("ssh-").upper()
        self._key_text = f"{kind} {key.get_fingerprint()}"
        return True

    def auth_completed(self) -> None:
        send_no_empty_packets(self._connection)
        self._user = self._spec.user
        self._log(
            "sshd",
            f"Accepted publickey for {self._user} from {self._from} ssh2: "
            f"{self._key_text}",
        )
        self._log(
            "sshd",
            f"pam_unix(sshd:session): session opened for user {self._user}(uid=1000) "
            "by (uid=0)",
        )


def send_no_empty_packets(connection: asyncssh.SSHServerConnection) -> None:
    """Send no message before each message, as sshd(8) sends none.

    asyncssh sends SSH_MSG_IGNORE (RFC 4253, 9.3.1), which protects ciphers in CBC mode:
    it offers none.  Hundreds of hosts may send their last events at the same time.
    """
    send = connection.send_packet

    def send_packet(kind: int, *parts: bytes, **options: Any) -> None:
        if kind != MSG_IGNORE:
            send(kind, *parts, **options)

    connection.send_packet = send_packet  # type: ignore[assignment, method-assign]


def authorized_keys(spec: HostSpec) -> list[asyncssh.SSHKey]:
    """Read the keys that may log in; lines without a valid key are ignored."""
    keys = []
    path = Path(tree.home(spec), ".ssh/authorized_keys")
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(asyncssh.KeyImportError):
                keys.append(asyncssh.import_public_key(line))
    return keys


class SftpServer(asyncssh.SFTPServer):
    """SFTP restricted to the host's tree, links included; it starts in the home."""

    def __init__(
        self, channel: asyncssh.SSHServerChannel[bytes], spec: HostSpec
    ) -> None:
        super().__init__(channel, chroot=os.fsencode(spec.root))
        self._root = os.path.realpath(os.fsencode(spec.root))
        self._home = os.fsencode(f"/home/{spec.user}")

    def map_path(self, path: bytes) -> bytes:
        inside = super().map_path(posixpath.join(self._home, path))
        real = os.path.realpath(inside)
        if real != self._root and not real.startswith(self._root + b"/"):
            raise asyncssh.SFTPPermissionDenied("Permission denied")
        return inside

    def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        """Refuse at once what is not a folder, as sftp-server(8) does."""
        os.scandir(self.map_path(path)).close()
        return super().scandir(path)

    def exit(self) -> None:
        """End with a status, as sftp-server(8) does: scp(1) needs it for success."""
        self.channel.exit(0)


class _Session:
    """One command, or one interactive shell, of a client."""

    def __init__(
        self,
        spec: HostSpec,
        children: Children,
        process: asyncssh.SSHServerProcess[bytes],
    ) -> None:
        self._spec, self._children, self._process = spec, children, process
        self._ended: asyncio.Future[int]
        self._pid = 0
        self._terminal: int | None = None

    async def run(self) -> None:
        """Run the session until the command ends or the client is gone."""
        with_terminal = self._process.term_type is not None
        start = self._start_on_terminal if with_terminal else self._start
        source, output, complaints = start()
        # asyncssh passes output on as it comes: no task has to be woken for it.
        await self._process.redirect(None, output, complaints, send_eof=False)
        forward = asyncio.create_task(self._forward_input(await _writer(source)))
        done = asyncio.create_task(self._finish())
        closed = asyncio.create_task(self._process.channel.wait_closed())
        try:
            await asyncio.wait({done, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (forward, done, closed):
                task.cancel()
            await asyncio.gather(forward, done, closed, return_exceptions=True)

    def _command(self) -> list[str]:
        text = self._process.command
        if text is not None:
            mapped = map_paths(text, self._spec.root, tree.PROGRAMS)
            return [*NICE, "/bin/sh", "-c", mapped]
        # Not a login shell, as /etc/profile would put the machine's programs first.
        shell = [tree.SHELL, *(["--norc"] if tree.SHELL.endswith("bash") else [])]
        return [*NICE, *shell, *(["-i"] if self._process.term_type else [])]

    def _environment(self) -> dict[str, str]:
        environment = tree.environment(self._spec, self._spec.user)
        if self._process.term_type:
            environment["TERM"] = self._process.term_type
        if self._process.command is None:
            environment["PS1"] = f"{self._spec.user}@{self._spec.hostname}:\\w$ "
        return environment

    def _start(self) -> _Pipes:
        """Start the command with three pipes."""
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        self._spawn(in_read, out_write, err_write)
        for descriptor in (in_read, out_write, err_write):
            os.close(descriptor)
        return in_write, out_read, err_read

    def _start_on_terminal(self) -> _Pipes:
        """Start the command on a terminal of its own."""
        master, slave = pty.openpty()
        self._terminal = master
        self._resize(self._process.term_size[:2])
        self._spawn(slave, slave, slave, _take_terminal)
        os.close(slave)
        return os.dup(master), master, None

    def _spawn(
        self,
        stdin: int,
        stdout: int,
        stderr: int,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        self._pid, self._ended = self._children.start(
            self._command(),
            cwd=tree.home(self._spec),
            env=self._environment(),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            before_exec=before_exec,
        )

    async def _finish(self) -> None:
        """Send the exit status after all output, as OpenSSH does.

        It waits for processes that keep the output open, such as background jobs.
        """
        status = await self._ended
        self._children.lower_adopted()
        await self._process.stdout.drain()
        await self._process.stderr.drain()
        if status < 0:
            name = signal.Signals(-status).name.removeprefix("SIG")
            self._process.exit_with_signal(name)
        else:
            self._process.exit(status)

    async def _forward_input(self, stdin: asyncio.StreamWriter) -> None:
        """Pass the client's input on as it arrives, and its end."""
        try:
            while True:
                try:
                    data = await self._process.stdin.read(CHUNK)
                except asyncssh.TerminalSizeChanged as change:
                    self._resize((change.width, change.height))
                    continue
                except asyncssh.SignalReceived as received:
                    self._signal(received.signal)
                    continue
                except asyncssh.BreakReceived:
                    continue
                if not data:
                    break
                stdin.write(data)
                await stdin.drain()
        except (OSError, asyncssh.Error):
            pass  # the client or the command is gone
        finally:
            stdin.close()

    def _signal(self, name: str) -> None:
        number = getattr(signal, f"SIG{name}", None)
        if isinstance(number, signal.Signals):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, number)

    def _resize(self, size: tuple[int, int]) -> None:
        if self._terminal is not None:
            columns, rows = size
            packed = struct.pack("HHHH", rows, columns, 0, 0)
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, packed)


def _take_terminal() -> None:
    """Make standard input the controlling terminal of this new session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def _writer(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),
        _file(descriptor, "wb"),
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


def _file(descriptor: int, mode: str) -> BinaryIO:
    return open(descriptor, mode, buffering=0)  # type: ignore[return-value]
