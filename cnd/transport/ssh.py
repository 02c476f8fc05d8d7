"""One host over SSH: wait for it, push, start, follow, stop, fetch its log.

One rule: a host shows the key that its run gave it, or it is not talked to.  The
worker runs detached and writes its events to a file, so a dropped connection loses
nothing: it is taken up again where it broke off.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import logging
import select
import shlex
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import fabric
import paramiko
from paramiko.auth_strategy import AuthSource, AuthStrategy, InMemoryPrivateKey
from paramiko.buffered_pipe import BufferedPipe

from cnd.errors import HostError, HostLost
from cnd.model import system_log
from cnd.on_instance.watchdog import MOST_LOG
from cnd.system import private_files
from cnd.system.background import begin
from cnd.system.pauses import growing
from cnd.transport import bounded_lines, keys, push
from cnd.transport.bounded_lines import Splitter
from cnd.transport.gateway import Gateway
from cnd.transport.limited_connection import Link

# paramiko reports every failed attempt on its own; ours are in the events.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

CONNECT_TIMEOUT = 3.0  # seconds for one TCP connection
HANDSHAKE_TIMEOUT = 15.0  # seconds for banner and for authentication, each
COMMAND_TIMEOUT = 20.0  # seconds for one short command
MOST_OUTPUT = 64 << 10  # bytes of what a command says
# Bytes of a stream that wait to be read; a host may have 2 MiB under way, by paramiko.
MOST_UNREAD = 4 << 20
MOST_COMPLAINT = 1000  # characters of what it says of its failure
LOG_TIMEOUT = 20.0  # seconds for a system log; what came by then is kept
PUSH_TIMEOUT = 60.0  # seconds for files, some 200 KB packed, and the start of a worker
FIRST_RETRY, LAST_RETRY = 0.05, 0.5  # seconds between attempts to connect, growing
SLOW_RETRY = 2.0  # seconds, through a gateway: each attempt is a process of its own
SILENCE = 5.0  # seconds; a live worker reports every 2.5 s at least: `Plan.progress`
ASK_EVERY = 1.0  # seconds; where nothing is said for long, the host is asked for a sign

EVENTS = "events.jsonl"
HEARD = "heard"  # touched, in the run's folder, when a host hears from us
# Seconds after the worker; many searches are over by then.  It counts as silence.
WATCHDOG_PAUSE = 15.0
# Where the watchdog looks for a spot notice; a worker that starts loses no time to it.
SPOT_WATCHDOG_PAUSE = 2.0
# What pow.py says of a folder whose worker lives.
RUNS_ALREADY = "a worker runs in this folder already"
# What a host that nobody follows any more does to read its own system log.
LOG_COMMAND = system_log.command(MOST_LOG)
# The same log from its beginning on, as it grows.  When the connection drops, `cat`
# meets the end of its input, and the whole session goes.
TAIL_COMMAND = (
    "{ if test -r /var/log/syslog; then tail -n +1 -F /var/log/syslog; "
    "elif sudo -n test -e /var/log/messages; then "
    "sudo -n tail -n +1 -F /var/log/messages; "
    "else sudo -n journalctl -o short-iso --no-pager -n all -f; fi 2>/dev/null & }; "
    "cat >/dev/null; kill 0"
)
# Follows the events and obeys a line "stop" at once, in the one session that is
# open anyway; a line "alive" is a sign of life for the watchdog.  GNU tail notices the
# worker's death soon, and new lines at once, or this soon where inotify(7) has run out,
# as with hundreds of hosts on one machine.  Where a worker ended in order its last word
# stands before.  When the connection drops, `read` meets the end of its input, and the
# whole session goes: nothing is left behind.
FOLLOW = (
    "cd {folder} && : >../" + HEARD + " && read -r pid <worker.pid && "
    "if tail -s 0.2 --pid=$$ -c 0 /dev/null 2>/dev/null; "
    'then mind="-s 0.2 --pid=$pid"; fi; '
    "{{ tail -c +{position} $mind -f " + EVENTS + " && "
    "echo '" + '{{"event": "failed", "reason": "the worker died"}}' + "'; }} & "
    'while read -r word; do case "$word" in stop) kill -TERM "$pid";; '
    "alive) : >../" + HEARD + ";; esac; done; kill 0"
)
# A worker that ends clears its pid, after its last line is in the system log.
AFTER = (
    "n=0; while [ $n -lt 20 ] && read -r pid <{folder}/worker.pid"
    ' && kill -0 "$pid"; do n=$((n + 1)); sleep 0.05; done 2>/dev/null; '
)

LOST = (OSError, EOFError, paramiko.SSHException)


# paramiko wakes ten times a second for each connection, to see whether it was closed;
# `Host.close` wakes it by itself.
IDLE_WAKE = 60.0  # seconds


@dataclass(frozen=True)
class Login:
    """How to get into the hosts of a run."""

    user: str
    key: Path  # private
    host_key: str  # public, "ssh-ed25519 AAAA…"


class _KeyOnly(AuthStrategy):
    """Logs in with the run's key and in no other way.

    Where a host wants a password as well, paramiko would ask whoever sits at the
    terminal, in the words of the host.
    """

    def __init__(self, login: Login) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())
        self._login = login

    def get_sources(self) -> Iterator[AuthSource]:
        key = _private_key(self._login.key)
        yield InMemoryPrivateKey(self._login.user, key)


class _Buffer(BufferedPipe):  # type: ignore[type-arg]  # at run time it has none
    """What one stream of a session has brought, as far as it may bring more.

    paramiko keeps all that comes, also of a host that sends more than it was told that
    it may: our window.
    """

    def feed(self, data: bytes) -> None:
        if len(self) + len(data) > MOST_UNREAD:
            raise paramiko.SSHException("it sends more than it may")
        super().feed(data)


class Host:
    """An SSH connection to one instance; `name` says which in messages.

    Not for several threads at once, except `stop` and `close`.
    """

    def __init__(
        self,
        name: str,
        address: str,
        login: Login,
        *,
        port: int = 22,
        gateway: Gateway | None = None,
        turn: Callable[
            [], contextlib.AbstractContextManager[object]
        ] = contextlib.nullcontext,
    ) -> None:
        """Make a host that is not connected yet.

        Args:
            turn: what to do a handshake within; may wait until few others do one.
        """
        self.name = name
        self._address, self._port, self._login = address, port, login
        self._gateway = gateway
        self._turn = turn
        self._link: Link | None = None
        self._connection: fabric.Connection | None = None
        self._session: paramiko.Channel | None = None
        self._following = False
        self.position = 0  # bytes of the followed worker's events that were heard
        self._begun = ("", b"")  # a worker that `start` began to follow, and its words
        self._closed = threading.Event()
        self._why = ""  # it was closed

    # --- connecting

    def connect(self, deadline: Callable[[], float]) -> None:
        """Return once SSH answers and accepts the key; try again until `deadline`.

        A port that answers may refuse the key for seconds, until the host's
        cloud-init has written it: that is no failure before the deadline.

        Args:
            deadline: the time on the monotonic clock; asked anew for each attempt,
                since the end of a run shortens everybody's patience.
        """
        last = LAST_RETRY if self._gateway is None else SLOW_RETRY
        pauses = growing(FIRST_RETRY, last)
        self._drop()  # it fell silent, perhaps: its session would stay on the host
        for pause in pauses:
            try:
                self._check_open()
                self._open(min(HANDSHAKE_TIMEOUT, deadline() - time.monotonic()))
                self._check_open()
                return
            except paramiko.BadHostKeyException as error:
                message = "shows a host key that is not this run's: not trusted"
                raise HostError(self.name, message) from error
            except LOST as error:
                self._drop()
                if time.monotonic() + pause >= deadline():
                    message = f"SSH did not answer in time: {_reason(error)}"
                    raise HostError(self.name, message) from error
            self._closed.wait(pause)

    def _open(self, patience: float) -> None:
        """Make one attempt; a host that is frozen must not outlast our patience."""
        patience = max(patience, 1.0)
        if self._gateway is not None:
            with self._turn():
                self._check_open()
                link = Link(self._gateway.link(self._address, self._port, patience))
                self._link = link
                link.greet(patience)
                self._shake_hands(patience, link)
                link.settimeout(IDLE_WAKE)
            return
        where = (self._address, self._port)
        self._link = link = Link(socket.create_connection(where, CONNECT_TIMEOUT))
        # Nagle's algorithm costs 10 to 100 ms a command, measured on loopback.
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(link.close)
            self._check_open()  # who closes from now on finds the link
            # A host that does not speak SSH yet must not keep others from their turn.
            link.greet(patience)
            with self._turn():
                self._check_open()
                self._shake_hands(patience, link)
            link.settimeout(IDLE_WAKE)
            on_failure.pop_all()

    def _shake_hands(self, patience: float, link: Link) -> None:
        """Find out who is there, over `link`, and log in."""
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
            # Time for the keys, and for the log-in; paramiko's thread may die unseen.
            with self._limited(HANDSHAKE_TIMEOUT + patience):
                connection.open()
        except LOST:
            raise
        except (
            Exception
        ) as error:  # whatever its thread died of: a host may say anything
            why = f"{type(error).__name__}: {error}"
            raise paramiko.SSHException(why) from error

    def _check_open(self) -> None:
        if self._closed.is_set():
            self._drop()
            raise HostError(self.name, f"gave up: {self._why}")

    def _drop(self) -> None:
        if self._link is not None:
            with contextlib.suppress(OSError):  # it is closed already
                self._link.shutdown(socket.SHUT_RDWR)
        if self._connection is not None:
            with contextlib.suppress(*LOST):
                self._connection.close()
            self._connection.client.close()

    def close(self, why: str = "the run is over") -> None:
        """Close the connection; a call that is under way ends with `HostError`."""
        self._why = self._why or why
        self._closed.set()
        self._drop()

    @property
    def closed(self) -> bool:
        """Whether it was closed from this side."""
        return self._closed.is_set()

    # --- commands

    def start(
        self,
        folder: str,
        part: str,
        job: bytes,
        *,
        code: Callable[[str], Mapping[str, bytes]],
        program: str = "pow.py",
        pause: float = WATCHDOG_PAUSE,
    ) -> None:
        """Push what is missing into `folder`; start a worker, unless it runs already.

        `folder` is made, mode 0700.  What is there already, by its digest, is not sent
        again.  The worker runs detached, by the job file `job`, in the folder `part`
        of `folder`, and its watchdog beside it.

        Args:
            code: returns the files (name -> content) for a machine (`uname -m`).
            program: which of them to start.
            pause: seconds until its watchdog begins.
        """
        order = {"part": part, "program": program, "pause": pause}
        worker = f"{folder}/{part}"
        command = f"{push.command(LOG_COMMAND)} && {{ {_follow(worker)}; }}"
        try:
            with self._limited(PUSH_TIMEOUT), self._answering():
                session = self._new_session()
                session.settimeout(PUSH_TIMEOUT)
                session.exec_command(command)
                begun, said = push.begin(session, folder, code, job, order)
                if begun:
                    self._session, self._following = session, True
                    self._begun = (worker, said)
                    return
                told = (said + _complaints(session)).decode("utf-8", "replace")
                status = session.recv_exit_status()
        except LOST as error:
            raise HostLost(self.name, f"push failed: {_reason(error)}") from error
        except push.Nonsense as error:
            message = f"the worker did not start: {error}"
            raise HostError(self.name, message) from error
        if status == -1:
            raise HostLost(self.name, "connection lost")
        if (
            RUNS_ALREADY not in told
        ):  # an attempt before this one, whose answer was lost
            message = f"the worker did not start: {told.strip()[-200:]!r}"
            raise HostError(self.name, message)

    def run(
        self,
        command: str,
        *,
        timeout: float = COMMAND_TIMEOUT,
        most: int = MOST_OUTPUT,
    ) -> str:
        """Run a short command; return its output, of at most `most` bytes."""
        began = time.monotonic()
        try:
            with self._limited(timeout):
                session = self._new_session()
                session.settimeout(timeout)
                session.exec_command(command)
                output, whole = bounded_lines.read(session.recv, most)
                if not whole:
                    session.close()
                    message = f"said more than {most} bytes: {command}"
                    raise HostError(self.name, message)
                complaints = _complaints(session)
                status = session.recv_exit_status()
        except LOST as error:
            why = f"SSH failed: {_reason(error)}"
            raise self._unanswered(command, began, timeout, why) from error
        # paramiko saw the connection close before any exit status.
        if status == -1:
            raise self._unanswered(command, began, timeout, "connection lost")
        text = output.decode("utf-8", "replace")
        if status != 0:
            told = complaints.decode("utf-8", "replace").strip() or text.strip()
            message = told[:MOST_COMPLAINT] or f"exit status {status}"
            raise HostError(self.name, message)
        return text

    def _unanswered(
        self, command: str, began: float, timeout: float, why: str
    ) -> HostLost:
        """Return what a command ended with that has no exit status.

        Ours is the clock: a connection that was closed because the time was up looks
        as if it had been lost.
        """
        if not self.closed and time.monotonic() - began >= timeout:
            why = f"no answer within {timeout:.0f} s: {command}"
        return HostLost(self.name, why)

    def has(self, folder: str) -> bool:
        """Tell whether a worker was ever started in `folder`."""
        path = shlex.quote(f"{folder}/{EVENTS}")
        return self.run(f"test -s {path} && echo yes; true").strip() == "yes"

    def log(
        self,
        path: Path,
        folder: str = "",
        *,
        most: int = system_log.MOST,
        deadline: Callable[[], float] | None = None,
    ) -> system_log.LogPart:
        """Write the host's system log to the file `path`, or its newest part.

        Args:
            folder: of a worker whose last word is to be in it: that is logged after it
                was said, so its end is waited for, a second at most.
            most: bytes that are kept.
            deadline: the time on the monotonic clock, asked anew for each piece;
                default: `LOG_TIMEOUT` from now.

        Raises:
            HostError: nothing of it came in time, or it makes no sense.
            OSError: the file cannot be written.
        """
        late = time.monotonic() + LOG_TIMEOUT
        wait = AFTER.format(folder=shlex.quote(folder)) if folder else ""
        with contextlib.ExitStack() as spools:
            part, best = system_log.LogPart(0), None
            for step in system_log.steps(most):
                spool = spools.enter_context(tempfile.TemporaryFile(dir=path.parent))
                try:
                    said = self._said(
                        wait + system_log.packed(step), deadline or (lambda: late)
                    )
                    found = system_log.keep(said, step, spool)
                except (HostError, system_log.Nonsense) as error:
                    if best is None:
                        reason = str(error).removeprefix(f"{self.name}: ")
                        raise HostError(self.name, f"no log: {reason}") from error
                    break
                part, best, wait = found, spool, ""
                if part.whole:
                    break
            if best is None or not part.kept:
                raise HostError(self.name, "no log: it is empty")
            with private_files.replaced(path) as file:
                system_log.copy(part, best, file)
        return part

    def _said(self, command: str, deadline: Callable[[], float]) -> Iterator[bytes]:
        """Yield what a command prints; `HostLost` if it is not over by the deadline."""
        try:
            with self._limited(max(0.0, deadline() - time.monotonic())):
                session = self._new_session()
                session.exec_command(command)
            with contextlib.closing(session):
                while (left := deadline() - time.monotonic()) > 0:
                    session.settimeout(left)
                    if chunk := session.recv(65536):
                        yield chunk
                        continue
                    session.status_event.wait(left)
                    if session.exit_status == -1:  # nobody knows whether that was all
                        raise EOFError("connection lost")
                    return
            raise TimeoutError
        except TimeoutError as error:
            raise HostLost(self.name, "it did not come in time") from error
        except LOST as error:
            raise HostLost(self.name, f"SSH failed: {_reason(error)}") from error

    def tail(self) -> Iterator[bytes]:
        """Yield the lines of the system log, from its beginning on, as they come.

        Ends with `HostLost` when the connection drops or is closed.
        """
        try:
            with self._limited(COMMAND_TIMEOUT):
                session = self._new_session()
                session.exec_command(TAIL_COMMAND)
            splitter = Splitter()
            while chunk := session.recv(65536):
                yield from splitter.lines(chunk)
        except LOST as error:
            raise HostLost(self.name, f"connection lost: {_reason(error)}") from error
        raise HostLost(self.name, "connection lost")

    # --- following

    def follow(
        self,
        folder: str,
        *,
        position: int = 0,
        silence: float = SILENCE,
        dropped: Callable[[int], None] = lambda size: None,
    ) -> Iterator[bytes]:
        """Yield the worker's event lines from byte `position` on, as they come.

        Ends with `HostLost` when the connection drops or nothing came for
        `silence` seconds; never by itself.  `self.position` is where to go on after
        the line that was yielded last.

        Args:
            dropped: told of the bytes of lines that are too long, as they come.
        """
        splitter = Splitter(position=position)
        self.position = position
        try:
            session, chunk = self._followed(folder, position, silence)
            while chunk := chunk or session.recv(65536):
                for line in splitter.lines(chunk):
                    self.position = splitter.position
                    yield line
                chunk = b""
                if splitter.dropped:
                    dropped(splitter.dropped)
                    splitter.dropped = 0
        except TimeoutError as error:
            message = f"silent for {silence:g} s"
            raise HostLost(self.name, message) from error
        except LOST as error:
            raise HostLost(self.name, f"connection lost: {error}") from error
        finally:
            # The session stays open, for signs of life.
            self._following = False
        raise HostLost(self.name, "connection lost")

    def _followed(
        self, folder: str, position: int, silence: float
    ) -> tuple[paramiko.Channel, bytes]:
        """Return a session that follows a worker, and what it has said already."""
        (begun, said), self._begun = self._begun, ("", b"")
        if begun == folder and not position and self._session is not None:
            self._session.settimeout(silence)  # the one that started it
            return self._session, said
        with self._limited(silence):
            session = self._new_session()
            session.settimeout(silence)
            session.exec_command(_follow(folder, position))
        self._session, self._following = session, True
        return session, b""

    def stop(self) -> bool:
        """Tell a followed worker to stop; return whether the word went out."""
        return self._following and self._say("stop")

    def beat(self) -> bool:
        """Let the host know that it is not alone; return whether the word went out."""
        return self._say("alive")

    def _say(self, word: str) -> bool:
        session = self._session
        # A channel whose window is full, of a host that is frozen, is left alone, and
        # a connection that takes no more: it would hold up the word to all others.
        if session is None or not session.send_ready() or not self._is_writable():
            return False
        try:
            session.sendall(f"{word}\n".encode())
        except LOST:
            return False
        return True

    def _is_writable(self) -> bool:
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
    def _limited(self, seconds: float) -> Iterator[None]:
        """Close the connection if the block takes longer; it fails then as if lost.

        paramiko waits up to an hour for a frozen host to open a channel, and for
        ever to start a command in it.
        """
        timer = threading.Timer(seconds, self._drop)
        timer.daemon = True
        _begin(timer)
        try:
            yield
        finally:
            timer.cancel()

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Close the connection once the host has not answered for `SILENCE`.

        What the block waits for may take its time on a machine that is busy; a host
        that is frozen does not answer even this.
        """
        transport, over = self._fabric.transport, threading.Event()

        def ask() -> None:
            with contextlib.suppress(*LOST):
                while not over.wait(ASK_EVERY):
                    with self._limited(SILENCE - ASK_EVERY):
                        transport.global_request("keepalive@openssh.com", wait=True)

        _begin(threading.Thread(target=ask, name="asking", daemon=True))
        try:
            yield
        finally:
            over.set()

    def _new_session(self) -> paramiko.Channel:
        """Open a session, of whose streams no more is kept than fits the window."""
        session: paramiko.Channel = self._fabric.create_session()
        session.in_buffer, session.in_stderr_buffer = _Buffer(), _Buffer()
        return session

    @property
    def _fabric(self) -> fabric.Connection:
        # Fabric would connect again by itself.
        if self._connection is None or self._closed.is_set():
            raise HostError(self.name, "is not connected")
        return self._connection


def _begin(thread: threading.Thread) -> None:
    """Start a thread; where none is to be had, it is the connection that fails."""
    try:
        begin(thread)
    except RuntimeError as error:
        raise paramiko.SSHException(str(error)) from error


def _follow(folder: str, position: int = 0) -> str:
    """Return the command that follows a worker's events from byte `position` on."""
    return FOLLOW.format(folder=shlex.quote(folder), position=position + 1)


def _complaints(session: paramiko.Channel) -> bytes:
    return bounded_lines.read(session.recv_stderr, MOST_OUTPUT)[0]


@functools.cache
def _private_key(path: Path) -> paramiko.PKey:
    """Read a private key, once for the whole fleet."""
    try:
        return keys.private_key(path)
    except ValueError as error:  # it is not what it was when the run began
        raise paramiko.SSHException(f"{path}: {error}") from error


def _known_name(address: str, port: int) -> str:
    """Return what known_hosts files call a host."""
    return address if port == 22 else f"[{address}]:{port}"


def _config() -> fabric.Config:
    """Return a configuration that reads no files: the run decides, not the folder."""
    return fabric.Config(lazy=True, overrides={"load_ssh_configs": False})


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
