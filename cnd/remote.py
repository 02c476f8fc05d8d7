"""One host over SSH: wait for it, push, start, follow, stop, fetch its log.

One rule: a host shows the key that its run gave it, or it is not talked to.  The
worker runs detached and writes its events to a file, so a dropped connection loses
nothing: it is taken up again where it broke off.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import fabric
import paramiko
from invoke.exceptions import CommandTimedOut, UnexpectedExit

from cnd.errors import HostError

# paramiko reports every failed attempt on its own; ours are in the events.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

CONNECT_TIMEOUT = 3.0  # seconds for one TCP connection
HANDSHAKE_TIMEOUT = 15.0  # seconds for banner and for authentication, each
COMMAND_TIMEOUT = 20.0  # seconds for one short command
FIRST_RETRY, LAST_RETRY = 0.05, 0.5  # seconds between attempts to connect, growing
SILENCE = 5.0  # seconds; a live worker reports every second

EVENTS = "events.jsonl"
# Ubuntu has a file, older Amazon Linux another, the newest only the journal.
LOG_COMMAND = (
    "cat /var/log/syslog 2>/dev/null || sudo -n cat /var/log/messages 2>/dev/null"
    " || sudo -n journalctl -o short-iso --no-pager"
)
# Follows the events and obeys a line "stop" at once, in the one session that is
# open anyway.  GNU tail notices the worker's death within a second; where a worker
# ended in order its last word stands before.  When the connection drops, `read`
# meets the end of its input, and the whole session goes: nothing is left behind.
FOLLOW = (
    "cd {folder} && read -r pid <worker.pid && "
    'if tail --pid=$$ -c 0 /dev/null 2>/dev/null; then mind="--pid=$pid"; fi; '
    "{{ tail -c +{position} $mind -f " + EVENTS + " && "
    "echo '" + '{{"event": "failed", "reason": "the worker died"}}' + "'; }} & "
    'while read -r word; do [ "$word" = stop ] && kill -TERM "$pid"; done; kill 0'
)

LOST = (OSError, EOFError, paramiko.SSHException)


@dataclass(frozen=True)
class Login:
    """How to get into the hosts of a run."""

    user: str
    key: Path  # private
    host_key: str  # public, "ssh-ed25519 AAAA…"


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
    ) -> None:
        self.name = name
        self._address, self._port, self._login = address, port, login
        self._connection: fabric.Connection | None = None
        self._session: paramiko.Channel | None = None
        self._closed = threading.Event()

    # --- connecting

    def connect(self, deadline: Callable[[], float]) -> None:
        """Return once SSH answers and accepts the key; try again until `deadline`.

        A port that answers may refuse the key for seconds, until the host's
        cloud-init has written it: that is no failure before the deadline.

        Args:
            deadline: the time on the monotonic clock; asked anew for each attempt,
                since the end of a run shortens everybody's patience.
        """
        pause = FIRST_RETRY
        while True:
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
            pause = min(2 * pause, LAST_RETRY)

    def _open(self, patience: float) -> None:
        """Make one attempt; a host that is frozen must not outlast our patience."""
        patience = max(patience, 1.0)
        link = socket.create_connection((self._address, self._port), CONNECT_TIMEOUT)
        # Nagle's algorithm costs 10 to 100 ms a command, measured on loopback.
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection = fabric.Connection(
            self._address,
            user=self._login.user,
            port=self._port,
            config=_config(),
            connect_kwargs={
                "sock": link,
                "key_filename": str(self._login.key),
                "allow_agent": False,
                "look_for_keys": False,
                "banner_timeout": patience,
                "auth_timeout": patience,
            },
        )
        kind, text = self._login.host_key.split(" ")[:2]
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(text))
        known = connection.client.get_host_keys()
        known.add(_known_name(self._address, self._port), kind, key)
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        connection.open()

    def _check_open(self) -> None:
        if self._closed.is_set():
            self._drop()
            raise HostError(self.name, "gave up: the run is over")

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection.client.close()

    def close(self) -> None:
        """Close the connection; a call that is under way ends with `HostError`."""
        self._closed.set()
        self._drop()

    # --- commands

    def machine(self) -> str:
        """Return the host's architecture, as ``uname -m`` says it."""
        return self.run("uname -m").strip()

    def push(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write `files` (name -> content) into `folder`, which is made, mode 0700.

        What is there already, by its digest, is not sent again; what was sent is
        there whole, or this raises `HostError`.
        """
        wanted = {
            name: hashlib.sha256(data).hexdigest() for name, data in files.items()
        }
        there = self._digests(folder, wanted)
        lacking = {name for name in wanted if there.get(name) != wanted[name]}
        if not lacking:
            return
        try:
            for name in sorted(lacking):
                self._fabric.put(io.BytesIO(files[name]), f"{folder}/{name}")
        except LOST as error:
            raise HostError(self.name, f"push failed: {_reason(error)}") from error
        if (there := self._digests(folder, wanted)) != wanted:
            damaged = sorted(name for name in wanted if there.get(name) != wanted[name])
            raise HostError(self.name, f"{', '.join(damaged)} arrived damaged")

    def _digests(self, folder: str, names: Iterable[str]) -> dict[str, str]:
        """Return the SHA-256 digests (hex) of those of `names` that are in `folder`."""
        words = f"{' '.join(map(shlex.quote, names))} 2>/dev/null"
        text = self.run(
            f"mkdir -p -m 700 {shlex.quote(folder)} && cd {shlex.quote(folder)} && "
            f"{{ sha256sum -- {words} || shasum -a 256 -- {words}; }}; true"
        )
        pairs = (line.split(maxsplit=1) for line in text.splitlines())
        return {name: digest for digest, name in pairs}

    def start(self, code: str, folder: str, job: bytes) -> int:
        """Start the worker that was pushed to the folder `code`, detached.

        It works in `folder`, which is made, by the job file `job`.  Returns its
        process id.
        """
        try:
            self._fabric.sftp().mkdir(folder, 0o700)
            self._fabric.put(io.BytesIO(job), f"{folder}/job.json")
        except LOST as error:
            raise HostError(self.name, f"push failed: {_reason(error)}") from error
        text = self.run(
            f"python3 -I -S {shlex.quote(code)}/pow.py "
            f"--job {shlex.quote(folder)}/job.json --detach {shlex.quote(folder)}"
        )
        try:
            return int(json.loads(text)["pid"])
        except (ValueError, KeyError, TypeError) as error:
            message = f"the worker did not start: {text.strip()[:200]!r}"
            raise HostError(self.name, message) from error

    def run(self, command: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a short command; return its output."""
        try:
            result = self._fabric.run(
                command, hide=True, in_stream=False, timeout=timeout
            )
        except UnexpectedExit as error:
            told = error.result.stderr.strip() or error.result.stdout.strip()
            # -1: paramiko saw the connection close before any exit status.
            status = error.result.exited
            reason = "connection lost" if status == -1 else f"exit status {status}"
            message = f"{told or reason}"
            raise HostError(self.name, message) from error
        except CommandTimedOut as error:
            message = f"no answer within {timeout:.0f} s: {command}"
            raise HostError(self.name, message) from error
        except LOST as error:
            raise HostError(self.name, f"SSH failed: {_reason(error)}") from error
        return str(result.stdout)

    def log(self) -> str:
        """Return the host's system log."""
        return self.run(LOG_COMMAND)

    # --- following

    def follow(self, folder: str, *, position: int = 0) -> Iterator[bytes]:
        """Yield the worker's event lines from byte `position` on, as they come.

        Ends with `HostError` when the connection drops or nothing came for
        `SILENCE` seconds; never by itself.  `position` plus the length of every
        line yielded, and one for its newline, is where to go on.
        """
        try:
            session = self._fabric.create_session()
            session.settimeout(SILENCE)
            session.exec_command(
                FOLLOW.format(folder=shlex.quote(folder), position=position + 1)
            )
            self._session = session
            partial = b""
            while chunk := session.recv(65536):
                *lines, partial = (partial + chunk).split(b"\n")
                yield from lines
        except TimeoutError as error:
            message = f"silent for {SILENCE:.0f} s"
            raise HostError(self.name, message) from error
        except LOST as error:
            raise HostError(self.name, f"connection lost: {error}") from error
        finally:
            self._session = None
        raise HostError(self.name, "connection lost")

    def stop(self) -> bool:
        """Tell a followed worker to stop; return whether the word went out."""
        session = self._session
        if session is None:
            return False
        try:
            session.sendall(b"stop\n")
        except LOST:
            return False
        return True

    @property
    def _fabric(self) -> fabric.Connection:
        if self._connection is None:
            raise HostError(self.name, "is not connected")
        return self._connection


def _known_name(address: str, port: int) -> str:
    """Return what known_hosts files call a host."""
    return address if port == 22 else f"[{address}]:{port}"


def _config() -> fabric.Config:
    """Return a configuration that reads no files: the run decides, not the folder."""
    return fabric.Config(lazy=True, overrides={"load_ssh_configs": False})


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
