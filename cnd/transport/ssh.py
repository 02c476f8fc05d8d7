"""The commands that one host gets over SSH: start, follow, stop, fetch its log.

One rule: the worker runs detached and writes its events to a file, so a dropped
connection loses nothing: a later one goes on reading at the byte where it broke off.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import paramiko

from cnd.errors import HostError, HostLost
from cnd.model import system_log
from cnd.system import private_files
from cnd.transport import bounded_lines, push, shell
from cnd.transport.bounded_lines import Splitter
from cnd.transport.gateway import Gateway
from cnd.transport.ssh_connection import (
    LOST,
    SILENCE,
    Login,
    SshConnection,
    Turn,
    reason,
)

COMMAND_TIMEOUT = 20.0  # seconds for one short command
MOST_OUTPUT = 64 << 10  # bytes of a command's output that are kept
MOST_COMPLAINT = 1000  # characters of its stderr that a message quotes
LOG_TIMEOUT = 20.0  # seconds for a system log; what came by then is kept
PUSH_TIMEOUT = 60.0  # seconds for files, some 200 KB packed, and the start of a worker
# Seconds between the start of a worker and that of its watchdog: many searches are over
# by then.  The watchdog counts them as silence of the orchestrator.
WATCHDOG_PAUSE = 15.0
# The same where the watchdog looks for a spot notice; long enough that the worker's
# start is not delayed.
SPOT_WATCHDOG_PAUSE = 2.0
# How the event begins that replaces all events before it: see `pow.Reporter.rotate`.
ROTATED = re.compile(rb'\{"event": "progress", "rotated": (\d{1,9})[,}]')
# What pow.py prints when it was started in a folder whose worker lives.
RUNS_ALREADY = "a worker runs in this folder already"


class _Stopped(Exception):
    """`stop` was called before a worker could begin."""


class Host:
    """One instance over SSH; messages contain its `name`.

    Not for several threads at once, except `stop`, `beat` and `close`.
    """

    def __init__(
        self,
        name: str,
        address: str,
        login: Login,
        *,
        port: int = 22,
        gateway: Gateway | None = None,
        turn: Turn = contextlib.nullcontext,
        look: float = shell.LOOK,
    ) -> None:
        """Make a host that is not connected yet.

        Args:
            turn: what to do a handshake within; may wait until few others do one.
            look: see `shell.follow`.
        """
        self.name = name
        self._look = look
        self._connection = SshConnection(
            name, address, login, port=port, gateway=gateway, turn=turn
        )
        self._session: paramiko.Channel | None = None
        self._following = False
        self.position = 0  # bytes of the followed worker's events that were yielded
        self._generation = 0  # of the file that they are in
        self._lock = threading.Lock()
        self._stopped = False
        # That of a start which has sent nothing yet that could begin a worker.
        self._starting: paramiko.Channel | None = None
        # The folder of the worker that `start` has begun to follow, and what was
        # received of its events then.
        self._begun = ("", b"")

    def connect(self, deadline: Callable[[], float]) -> None:
        """Connect: see `SshConnection.open`."""
        self._connection.open(deadline)

    def close(self, why: str = "the run is over") -> None:
        """Close the connection; a call that is under way ends with `HostError`."""
        self._connection.close(why)

    @property
    def answered(self) -> bool:
        """Whether the host ever took a connection, or refused one."""
        return self._connection.answered

    @property
    def closed(self) -> bool:
        """Whether it was closed from this side."""
        return self._connection.closed

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
        former: Sequence[str] = (),
    ) -> bool:
        """Push what is missing into `folder`; start a worker, unless it runs already.

        `folder` is made, mode 0700.  What is there already, by its digest, is not sent
        again.  The worker runs detached, by the job file `job`, in the folder `part`
        of `folder`, and its watchdog beside it.

        Args:
            code: returns the files (name -> content) for a machine (`uname -m`).
            program: which of them to start.
            pause: seconds until its watchdog begins.
            former: folders of earlier runs, whose files are not sent again either.

        Returns:
            Whether it runs; False if `stop` came before it could begin.
        """
        order = {"part": part, "program": program, "pause": pause}
        worker = f"{folder}/{part}"
        command = f"{push.command(shell.LOG_COMMAND)} && {{ {shell.keep(worker)}; }}"
        try:
            with self._connection.limited(PUSH_TIMEOUT), self._connection.answering():
                session = self._begin(command)
                begun, output = push.begin(
                    session, folder, self._uninterrupted(code), job, order, former
                )
                if begun:
                    self._session, self._following = session, True
                    self._begun = (worker, output)
                    return True
                if self._given_up:
                    return False
                output += _complaints(session)
                status = session.recv_exit_status()
        except _Stopped:
            return False
        except LOST as error:
            if self._given_up:
                return False
            raise HostLost(self.name, f"push failed: {reason(error)}") from error
        except push.Nonsense as error:
            message = f"the worker did not start: {error}"
            raise HostError(self.name, message) from error
        if status == -1:
            raise HostLost(self.name, "connection lost")
        text = output.decode("utf-8", "replace")
        # It runs already if it was started before and the answer was lost.
        if RUNS_ALREADY not in text:
            message = f"the worker did not start: {text.strip()[-200:]!r}"
            raise HostError(self.name, message)
        return True

    def _begin(self, command: str) -> paramiko.Channel:
        """Return the session of a start, which `stop` may close from now on."""
        session = self._connection.new_session()
        with self._lock:
            if self._stopped:
                session.close()
                raise _Stopped
            self._starting = session
        session.settimeout(PUSH_TIMEOUT)
        session.exec_command(command)
        return session

    def _uninterrupted(
        self, code: Callable[[str], Mapping[str, bytes]]
    ) -> Callable[[str], Mapping[str, bytes]]:
        """Return `code`, whose call ends the time in which `stop` may close a start.

        What is sent after it may begin a worker, which must be stopped as one.
        """

        def called(machine: str) -> Mapping[str, bytes]:
            with self._lock:
                session, self._starting = self._starting, None
            if self._stopped and session is not None:
                session.close()
                raise _Stopped
            return code(machine)

        return called

    @property
    def _given_up(self) -> bool:
        """Whether `stop` has closed the session of a start."""
        with self._lock:
            return self._stopped and self._starting is not None

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
            with self._connection.limited(timeout):
                session = self._connection.new_session()
                session.settimeout(timeout)
                session.exec_command(command)
                output, whole = bounded_lines.read(session.recv, most)
                if not whole:
                    session.close()
                    message = f"printed more than {most} bytes: {command}"
                    raise HostError(self.name, message)
                complaints = _complaints(session)
                status = session.recv_exit_status()
        except LOST as error:
            why = f"SSH failed: {reason(error)}"
            raise self._unanswered(command, began, timeout, why) from error
        # paramiko saw the connection close before any exit status.
        if status == -1:
            raise self._unanswered(command, began, timeout, "connection lost")
        text = output.decode("utf-8", "replace")
        if status != 0:
            complaint = complaints.decode("utf-8", "replace").strip() or text.strip()
            message = complaint[:MOST_COMPLAINT] or f"exit status {status}"
            raise HostError(self.name, message)
        return text

    def _unanswered(
        self, command: str, began: float, timeout: float, why: str
    ) -> HostLost:
        """Return the failure of a command that has no exit status.

        The clock decides which: a connection that was closed because the time was up
        looks as if it had been lost.
        """
        if not self.closed and time.monotonic() - began >= timeout:
            why = f"no answer within {timeout:.0f} s: {command}"
        return HostLost(self.name, why)

    def has(self, folder: str) -> bool:
        """Return whether a worker was ever started in `folder`."""
        return self.run(shell.was_started(folder)).strip() == "yes"

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
            folder: of a worker whose last event is to be in the log: a worker logs it
                after it has written it, so its end is waited for, a second at most.
            most: bytes that are kept.
            deadline: the time on the monotonic clock, called for each piece;
                default: `LOG_TIMEOUT` from now.

        Raises:
            HostError: nothing of it came in time, or it has another format.
            OSError: the file cannot be written.
        """
        late = time.monotonic() + LOG_TIMEOUT
        wait = shell.after(folder) if folder else ""
        with contextlib.ExitStack() as spools:
            part, best = system_log.LogPart(0), None
            for step in system_log.steps(most):
                spool = spools.enter_context(tempfile.TemporaryFile(dir=path.parent))
                try:
                    chunks = self._output(
                        wait + system_log.packed(step), deadline or (lambda: late)
                    )
                    found = system_log.keep(chunks, step, spool)
                except (HostError, system_log.InvalidLog) as error:
                    if best is None:
                        why = str(error).removeprefix(f"{self.name}: ")
                        raise HostError(self.name, f"no log: {why}") from error
                    break
                part, best, wait = found, spool, ""
                if part.whole:
                    break
            if best is None or not part.kept:
                raise HostError(self.name, "no log: it is empty")
            with private_files.replaced(path) as file:
                system_log.copy(part, best, file)
        return part

    def _output(self, command: str, deadline: Callable[[], float]) -> Iterator[bytes]:
        """Yield what a command prints; `HostLost` if it is not over by the deadline."""
        try:
            with self._connection.limited(max(0.0, deadline() - time.monotonic())):
                session = self._connection.new_session()
                session.exec_command(command)
            with contextlib.closing(session):
                while (left := deadline() - time.monotonic()) > 0:
                    session.settimeout(left)
                    if chunk := session.recv(65536):
                        yield chunk
                        continue
                    session.status_event.wait(left)
                    if session.exit_status == -1:  # not known whether that was all
                        raise EOFError("connection lost")
                    return
            raise TimeoutError
        except TimeoutError as error:
            raise HostLost(self.name, "it did not come in time") from error
        except LOST as error:
            raise HostLost(self.name, f"SSH failed: {reason(error)}") from error

    def tail(self) -> Iterator[bytes]:
        """Yield the lines of the system log, from its beginning on, as they come.

        Ends with `HostLost` when the connection drops or is closed.
        """
        try:
            with self._connection.limited(COMMAND_TIMEOUT):
                session = self._connection.new_session()
                session.exec_command(shell.TAIL_COMMAND)
            splitter = Splitter()
            while chunk := session.recv(65536):
                yield from splitter.lines(chunk)
        except LOST as error:
            raise HostLost(self.name, f"connection lost: {reason(error)}") from error
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
            dropped: called with how many bytes of too long lines were left out.
        """
        splitter = Splitter(position=position)
        self.position = position
        try:
            session, chunk, by_file = self._followed(folder, position, silence)
            while chunk := chunk or session.recv(65536):
                for line in splitter.lines(chunk):
                    if not by_file and line.endswith(shell.OVER):
                        session.close()
                        splitter = Splitter(position=self.position)
                        session, _, by_file = self._followed(
                            folder, self.position, silence
                        )
                        break
                    if rotated := ROTATED.match(line):
                        self._generation = int(rotated[1])
                        splitter.position = len(line) + 1
                    if by_file and line.endswith(shell.DIED):  # it is not in the file
                        line = shell.DIED  # without the half line that was the last
                    else:
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
    ) -> tuple[paramiko.Channel, bytes, bool]:
        """Return a session that follows a worker, and its output so far.

        And whether it follows the file: the session that started the worker gets the
        events from the worker itself.
        """
        (begun, received), self._begun = self._begun, ("", b"")
        if begun == folder and not position and self._session is not None:
            self._session.settimeout(silence)  # the one that started it
            return self._session, received, False
        with self._connection.limited(silence):
            session = self._connection.new_session()
            session.settimeout(silence)
            session.exec_command(self._follow(folder, position))
        self._session, self._following = session, True
        return session, b"", True

    def _follow(self, folder: str, position: int = 0) -> str:
        return shell.follow(folder, position, self._generation, self._look)

    def stop(self) -> bool:
        """Stop a followed worker; return whether the message was sent.

        A start that has sent nothing yet that could begin a worker is given up: the
        program that waits for it on the host ends with its session.
        """
        with self._lock:
            self._stopped, starting = True, self._starting
        if starting is not None and self._connection.is_writable():
            with contextlib.suppress(*LOST):
                starting.close()
        return self._following and self._send("stop")

    def beat(self) -> bool:
        """Send the host a sign of life; return whether it was sent."""
        return self._send("alive")

    def _send(self, message: str) -> bool:
        """Send one line to the followed session, if that can be done at once."""
        session, connection = self._session, self._connection
        # A frozen host's channel has a full window, or its connection takes no more
        # bytes: to wait for it would delay the message to all others.
        if session is None or not session.send_ready() or not connection.is_writable():
            return False
        try:
            session.sendall(f"{message}\n".encode())
        except LOST:
            return False
        return True


def _complaints(session: paramiko.Channel) -> bytes:
    return bounded_lines.read(session.recv_stderr, MOST_OUTPUT)[0]
