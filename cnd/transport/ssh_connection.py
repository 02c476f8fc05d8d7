"""One SSH connection to one host: opened, limited in time and memory, closed.

One rule: a host must show the host key that its run gave it, or the connection is
refused; and nothing that the host does, or does not do, holds the caller up without a
limit.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fabric
import paramiko
from paramiko.auth_strategy import AuthSource, AuthStrategy, InMemoryPrivateKey
from paramiko.buffered_pipe import BufferedPipe

from cnd.errors import ForeignHost, HostError
from cnd.system.background import begin
from cnd.system.pauses import growing
from cnd.transport import keys
from cnd.transport.deadlines import HANDSHAKE_TIMEOUT
from cnd.transport.gateway import Gateway
from cnd.transport.limited_connection import Link

# paramiko logs every failed attempt by itself; the run's events have them already.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

CONNECT_TIMEOUT = 3.0  # seconds for one TCP connection
FIRST_RETRY, LAST_RETRY = 0.05, 0.5  # seconds between attempts to connect, growing
# The same after a host has refused the key.  OpenSSH 9.8 counts 5 s of penalty for each
# refusal, and from 15 s on refuses the whole machine for as long: PerSourcePenalties in
# https://man.openbsd.org/sshd_config
FIRST_LOGIN_RETRY, LAST_LOGIN_RETRY = 1.0, 6.0
SLOW_RETRY = 2.0  # seconds, through a gateway: each attempt is a process of its own
# Seconds without a byte until a host counts as silent; a live worker reports every
# 2.5 s at least: `Plan.progress`.
SILENCE = 5.0
ASK_EVERY = 1.0  # seconds between two keep-alive requests to a host that is set up
# Bytes of a stream that wait to be read; paramiko's window lets a host send 2 MiB.
MOST_UNREAD = 4 << 20
# paramiko wakes ten times a second for each connection, to see whether it was closed;
# `SshConnection.close` wakes it by itself.
IDLE_WAKE = 60.0  # seconds

# What fails when a connection is lost.
LOST = (OSError, EOFError, paramiko.SSHException)

# Within what it returns, a handshake takes place.
Turn = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class Login:
    """How to log in to the hosts of a run."""

    user: str
    key: Path  # private
    host_key: str  # public, "ssh-ed25519 AAAA…"
    rule: str = ""  # what lets SSH in: "sg-1 allows SSH from 192.0.2.7/32"


class _KeyOnly(AuthStrategy):
    """Logs in with the run's key and in no other way.

    Where a host wants a password as well, paramiko would ask the user at the terminal,
    with a prompt that the host wrote.
    """

    def __init__(self, login: Login) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())
        self._login = login

    def get_sources(self) -> Iterator[AuthSource]:
        key = _private_key(self._login.key)
        yield InMemoryPrivateKey(self._login.user, key)


class _Buffer(BufferedPipe):  # type: ignore[type-arg]  # at run time it has none
    """What was received of one stream of a session, and not read yet: limited.

    paramiko keeps everything that arrives, also from a host that sends more than the
    window that it was granted.
    """

    def feed(self, data: bytes) -> None:
        if len(self) + len(data) > MOST_UNREAD:
            raise paramiko.SSHException("it sends more than its window allows")
        super().feed(data)


class SshConnection:
    """An SSH connection to one instance; messages contain its `name`.

    Not for several threads at once, except `close` and `drop`.
    """

    def __init__(
        self,
        name: str,
        address: str,
        login: Login,
        *,
        port: int,
        gateway: Gateway | None,
        turn: Turn,
    ) -> None:
        """Make a connection that is not open yet.

        Args:
            turn: what to do a handshake within; may wait until few others do one.
        """
        self.name = name
        self._address, self._port, self._login = address, port, login
        self._gateway = gateway
        self._turn = turn
        self._link: Link | None = None
        self._connection: fabric.Connection | None = None
        self._closed = threading.Event()
        self._why = ""  # it was closed
        self.answered = False  # whether the host ever took a connection, or refused one

    # --- open and close

    def open(self, deadline: Callable[[], float]) -> None:
        """Return once SSH answers and accepts the key; try again until `deadline`.

        A port that answers may refuse the key for seconds, until the host's
        cloud-init has written it: that is no failure before the deadline.

        Args:
            deadline: the time on the monotonic clock; called for each attempt, since
                the end of a run brings the deadline of every host forward.

        Raises:
            ForeignHost: the host key is another.
            HostError: the deadline has passed, it was closed, or it has no address.
        """
        if not self._address:
            message = "runs, but AWS gave it no address of the kind that SSH goes to"
            raise HostError(self.name, message)
        last = LAST_RETRY if self._gateway is None else SLOW_RETRY
        pauses = growing(FIRST_RETRY, last)
        login_pauses = login_retries()
        self.drop()  # perhaps it fell silent: its session would stay on the host
        for pause in pauses:
            try:
                self._check_open()
                self._attempt(min(HANDSHAKE_TIMEOUT, deadline() - time.monotonic()))
                self._check_open()
                return
            except paramiko.BadHostKeyException as error:
                message = "shows a host key that is not this run's: not trusted"
                raise ForeignHost(self.name, message) from error
            except LOST as error:
                self.drop()
                if isinstance(error, paramiko.AuthenticationException):
                    pause = next(login_pauses)
                self.answered |= isinstance(error, ConnectionRefusedError)
                if time.monotonic() + pause >= deadline():
                    message = f"SSH did not answer in time: {reason(error)}"
                    raise HostError(self.name, message) from error
            self._closed.wait(pause)

    def _attempt(self, patience: float) -> None:
        """Make one attempt of `patience` seconds, also with a host that is frozen."""
        patience = max(patience, 1.0)
        if self._gateway is not None:
            with self._turn():
                self._check_open()
                link = Link(self._gateway.link(self._address, self._port, patience))
                self._link = link
                link.greet(patience)
                self.answered = True
                self._shake_hands(patience, link)
                link.settimeout(IDLE_WAKE)
            return
        where = (self._address, self._port)
        self._link = link = Link(socket.create_connection(where, CONNECT_TIMEOUT))
        # Nagle's algorithm costs 10 to 100 ms a command, measured on loopback.
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answered = True
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(link.close)
            self._check_open()  # a `close` from now on finds the link
            # A host that does not speak SSH yet must not keep others from their turn.
            link.greet(patience)
            with self._turn():
                self._check_open()
                self._shake_hands(patience, link)
            link.settimeout(IDLE_WAKE)
            on_failure.pop_all()

    def _shake_hands(self, patience: float, link: Link) -> None:
        """Check the host's key over `link`, and log in."""
        self._connection = connection = fabric.Connection(
            self._address,
            user=self._login.user,
            port=self._port,
            config=_config(),
            gateway=False,  # also where some configuration names one
            connect_kwargs={
                "sock": link,
                "auth_strategy": _KeyOnly(self._login),
                "banner_timeout": patience,
                "auth_timeout": patience,
            },
        )
        kind, text = self._login.host_key.split(" ")[:2]
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(text))
        known = connection.client.get_host_keys()
        known.add(_known_name(self._address, self._port), kind, key)
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            # Key exchange, then log-in; paramiko's thread may die without an error.
            with self.limited(HANDSHAKE_TIMEOUT + patience):
                connection.open()
        except LOST:
            raise
        except (
            Exception
        ) as error:  # a host may send anything, and paramiko's parsers raise anything
            why = f"{type(error).__name__}: {error}"
            raise paramiko.SSHException(why) from error

    def _check_open(self) -> None:
        if self._closed.is_set():
            self.drop()
            raise HostError(self.name, f"gave up: {self._why}")

    def drop(self) -> None:
        """Disconnect; `open` may connect again.  For any thread."""
        if self._link is not None:
            with contextlib.suppress(OSError):  # it is closed already
                self._link.shutdown(socket.SHUT_RDWR)
        if self._connection is not None:
            with contextlib.suppress(*LOST):
                self._connection.close()
            self._connection.client.close()

    def close(self, why: str) -> None:
        """Close it for good; a call that is under way ends with `HostError`."""
        self._why = self._why or why
        self._closed.set()
        self.drop()

    @property
    def closed(self) -> bool:
        """Whether it was closed from this side."""
        return self._closed.is_set()

    # --- use

    def new_session(self) -> paramiko.Channel:
        """Open a session, of whose streams no more is kept than fits the window."""
        session: paramiko.Channel = self._opened.create_session()
        session.in_buffer, session.in_stderr_buffer = _Buffer(), _Buffer()
        return session

    @property
    def _opened(self) -> fabric.Connection:
        # Fabric would connect again by itself.
        if self._connection is None or self._closed.is_set():
            raise HostError(self.name, "is not connected")
        return self._connection

    def is_writable(self) -> bool:
        """Whether the connection takes some bytes at once; True if it is not known."""
        if self._link is None:
            return True
        poll = select.poll()
        try:
            poll.register(self._link, select.POLLOUT)
            return bool(poll.poll(0))
        except (OSError, ValueError):  # it was closed meanwhile
            return False

    @contextlib.contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Disconnect if the block takes longer; it fails as if the connection was lost.

        paramiko waits up to an hour for a frozen host to open a channel, and without a
        limit for a command to start in it.
        """
        timer = threading.Timer(seconds, self.drop)
        timer.daemon = True
        _begin(timer)
        try:
            yield
        finally:
            timer.cancel()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Disconnect once the host has not answered for `SILENCE` seconds.

        What the block waits for may take long on a busy machine; but a busy machine
        still answers a keep-alive request, and a frozen one does not.
        """
        transport, over = self._opened.transport, threading.Event()

        def ask() -> None:
            with contextlib.suppress(*LOST):
                while not over.wait(ASK_EVERY):
                    with self.limited(SILENCE - ASK_EVERY):
                        transport.global_request("keepalive@openssh.com", wait=True)

        _begin(threading.Thread(target=ask, name="asking", daemon=True))
        try:
            yield
        finally:
            over.set()


def login_retries() -> Iterator[float]:
    """Yield the seconds between attempts of which the host refuses the key."""
    yield FIRST_LOGIN_RETRY
    while True:
        yield LAST_LOGIN_RETRY


def reason(error: BaseException) -> str:
    """Return the text of an error, or the name of its class where it has none."""
    return str(error) or type(error).__name__


def _begin(thread: threading.Thread) -> None:
    """Start a thread; where no thread can be had, the connection fails."""
    try:
        begin(thread)
    except RuntimeError as error:
        raise paramiko.SSHException(str(error)) from error


@functools.cache
def _private_key(path: Path) -> paramiko.PKey:
    """Read a private key, once for the whole fleet."""
    try:
        return keys.private_key(path)
    except ValueError as error:  # it is not what it was when the run began
        raise paramiko.SSHException(f"{path}: {error}") from error


def _known_name(address: str, port: int) -> str:
    """Return the name of a host in a known_hosts file."""
    return address if port == 22 else f"[{address}]:{port}"


def _config() -> fabric.Config:
    """Return a configuration that reads no files: the run decides, not the folder."""
    return fabric.Config(lazy=True, overrides={"load_ssh_configs": False})
