"""A jump host: one SSH connection, through which all hosts of a run are reached.

One rule: it is the user's own machine, so it is verified and logged in to as the user's
`ssh` does it, with their configuration, keys and agent; one whose host key is not known
is refused.  Where the gateway refuses the user's own keys, the run's key is tried.

OpenSSH is the transport wherever it is installed, since nothing else reads its files
correctly: a master connection (ControlMaster), and ``ssh -W`` through it for each host.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import fabric
import paramiko

from cnd.errors import UsageError
from cnd.transport.keys import private_key

PATIENCE = 15.0  # seconds for the gateway to accept the log-in
CHANNEL_PATIENCE = 5.0  # seconds for the gateway to reach a host
IDLE = 60  # seconds without a host until the connection ends, also if CND has died
EXIT_PATIENCE = 2.0  # seconds for ssh to print why it ended, or to disconnect
LOST = (OSError, EOFError, paramiko.SSHException)
MOST_PATH = 80  # characters of the name of a control socket; ssh adds some
# These override what the user has configured for interactive work on the gateway.
QUIET = {
    "BatchMode": "yes",
    "ConnectTimeout": f"{PATIENCE:.0f}",
    "ConnectionAttempts": "1",
    "ServerAliveInterval": "5",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
}


class Gateway:
    """The connection to a gateway, made when it is first needed; for any thread."""

    def __init__(self, where: str, key: Path) -> None:
        """Make a gateway that is not yet connected to.

        Args:
            where: "user@host:port"; user and port may be left out.
            key: the private key of the run, tried after the user's own.
        """
        self.where = where
        ssh = shutil.which("ssh")
        self._way: _Way = _OpenSSH(ssh, where, key) if ssh else _Paramiko(where, key)
        self._lock = threading.Lock()
        self._closed = False

    def link(self, address: str, port: int, patience: float) -> socket.socket:
        """Return a connection to a host, through the gateway.

        Args:
            patience: seconds for the host to be reached, and to send its first byte.

        Raises:
            OSError, EOFError, paramiko.SSHException: one of them does not answer.
        """
        with self._lock:
            if self._closed:
                raise EOFError("the connection to the gateway was closed")
            self._way.enter()
        link = self._way.link(address, port, patience)
        link.settimeout(patience)
        return link

    def check(self) -> None:
        """Log in to the gateway and disconnect; `UsageError` if it refuses."""
        try:
            with self._lock:
                self._way.enter()
        except LOST as error:
            hint = f"`ssh {self.where.partition(':')[0]}` must work without questions"
            message = f"--gateway {self.where}: {error or type(error).__name__}"
            raise UsageError(message, hint=hint) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, and all that go through it."""
        self._closed = True
        self._way.leave()


class _Way(Protocol):
    def enter(self) -> None:
        """Connect to the gateway, unless that is done; one of `LOST` if it refuses."""

    def link(self, address: str, port: int, patience: float) -> socket.socket:
        """Return a connection to a host; one of `LOST` if there is none."""

    def leave(self) -> None:
        """Close all connections."""


class _OpenSSH:
    """By the user's `ssh`; its stderr is the message of a failure."""

    def __init__(self, ssh: str, where: str, key: Path) -> None:
        self._options = [ssh, *(f"-o{k}={v}" for k, v in QUIET.items())]
        user, _, rest = where.rpartition("@")
        self._host, _, port = rest.partition(":")
        self._options += [f"-l{user}"] * bool(user) + [f"-p{port}"] * bool(port)
        file = str(key).replace("%", "%%")
        self._own_key = ["-oIdentitiesOnly=yes", f"-oIdentityFile={_quoted(file)}"]
        self._keys: list[
            str
        ] = []  # none: ssh offers those that the user has configured
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._clients: list[subprocess.Popen[bytes]] = []

    @property
    def _control(self) -> Path:
        if self._folder is None:
            given = Path(tempfile.gettempdir())
            short = given if len(str(given)) < MOST_PATH else Path("/tmp")
            self._folder = tempfile.TemporaryDirectory(prefix="cnd-", dir=short)
        return Path(self._folder.name) / "gw"

    def enter(self) -> None:
        if self._control.is_socket():
            return
        try:
            self._open_master()
        except PermissionError:
            if self._keys:
                raise
            self._keys = self._own_key
            self._open_master()

    def _open_master(self) -> None:
        """Open the connection that all others go through; it outlives this call.

        Raises:
            PermissionError: the gateway refuses all keys.
            OSError: it does not answer, or is not known.
        """
        master = ["-fNM", f"-S{self._control}", f"-oControlPersist={IDLE}"]
        with tempfile.TemporaryFile() as output:  # the master would keep a pipe open
            command = [*self._options, *self._keys, *master, "--", self._host]
            opened = _started(command, output.fileno())
            try:
                status = opened.wait(PATIENCE + EXIT_PATIENCE)
            except subprocess.TimeoutExpired as error:
                opened.kill()
                opened.wait()
                raise TimeoutError(f"no answer within {PATIENCE:.0f} s") from error
            output.seek(0)
            why = _last_line(output.read(4096), status)
        if status:
            refused = "denied" in why or "authentication failures" in why
            raise (PermissionError if refused else ConnectionError)(why)

    def link(self, address: str, port: int, patience: float) -> socket.socket:
        near, far = socket.socketpair()
        way = [f"-S{self._control}", "-oControlMaster=no", f"-W{address}:{port}"]
        with far:
            command = [*self._options, *self._keys, *way, "--", self._host]
            client = _started(command, subprocess.PIPE, far.fileno())
        self._clients = [c for c in self._clients if c.poll() is None] + [client]
        try:
            near.settimeout(patience)
            if near.recv(1, socket.MSG_PEEK):  # an SSH server sends first
                return near
            near.close()
            raise EOFError(_complaint(client))
        except BaseException:
            near.close()
            client.kill()
            raise
        finally:
            assert client.stderr
            client.stderr.close()

    def leave(self) -> None:
        for client in self._clients:
            client.kill()
        for client in self._clients:
            client.wait()
        self._clients = []
        if self._folder is None:
            return
        command = [*self._options, f"-S{self._control}", "-Oexit", "--", self._host]
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._control.is_socket():
                _started(command, subprocess.DEVNULL).wait(EXIT_PATIENCE)
        self._folder.cleanup()
        self._folder = None


def _started(
    command: list[str], stderr: int, both: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start ssh in a session of its own: Ctrl-C must not end it before the logs came.

    Args:
        both: its stdin and its stdout.
    """
    return subprocess.Popen(
        command, stdin=both, stdout=both, stderr=stderr, start_new_session=True
    )


def _complaint(client: subprocess.Popen[bytes]) -> str:
    assert client.stderr
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.wait(EXIT_PATIENCE)
    client.kill()
    return _last_line(client.stderr.read(4096), client.wait())


def _last_line(output: bytes, status: int) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"ssh ended with status {status}"


def _quoted(text: str) -> str:
    """Return a value quoted for ssh_config(5)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Paramiko:
    """By paramiko, where there is no `ssh`; it reads most of ssh's configuration."""

    def __init__(self, where: str, key: Path) -> None:
        self._where, self._key = where, key
        self._connection: fabric.Connection | None = None

    def enter(self) -> None:
        if self._connection is None or not self._connection.is_connected:
            self.leave()
            with _translated():
                self._connection = self._opened()

    def link(self, address: str, port: int, patience: float) -> socket.socket:
        assert self._connection
        transport = self._connection.transport
        # A channel has all that is used of a `socket.socket`.
        return transport.open_channel("direct-tcpip", (address, port), ("", 0))  # type: ignore[no-any-return]

    def leave(self) -> None:
        if self._connection is not None:
            self._connection.client.close()

    def _opened(self) -> fabric.Connection:
        config = fabric.Config(lazy=True)
        config.load_ssh_config()
        connection = fabric.Connection(
            self._where,
            config=config,
            connect_timeout=int(CHANNEL_PATIENCE),
            connect_kwargs={
                "pkey": private_key(self._key),
                "banner_timeout": PATIENCE,
                "auth_timeout": PATIENCE,
            },
        )
        connection.client.load_system_host_keys()
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        connection.open()
        # paramiko would wait for an hour.
        connection.transport.channel_timeout = CHANNEL_PATIENCE
        return connection


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Translate what paramiko raises of files that only `ssh` can read: a refusal."""
    try:
        yield
    except LOST:
        raise
    except Exception as error:  # its parsers raise anything
        why = f"the SSH configuration cannot be read without ssh: {error}"
        raise paramiko.SSHException(why) from error
