"""`cnd`, `fab` and local clouds in processes that are forked: they are imported once.

To start Python and to import what a command needs takes a third of a second of
computing, a local cloud a whole one, and the tests run some thousand commands and
dozens of clouds.  So a run of the tests has a server for commands and one for clouds,
which has imported what they need and does nothing else; a request of any of the test
processes has it fork.  The child is a process as any other: with its own id, session,
folder, environment and streams.  It calls what the installed script calls, and ends as
Python ends.

One rule: what depends on how Python itself begins is no case for this file.  Another
program, or variables that Python reads, need a process that is started.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import cnd

ROOT = Path(__file__).parents[2]
ENVIRONMENT = dict(os.environ)  # before any test sets a variable of its own
SERVE = "import sys; from tests.support.forking import serve; serve(*sys.argv[1:])"
PROGRAMS = ("cnd", "fab")
CLOUD = "cloud"  # the program of a local cloud
# What the commands of the tests ask a cloud for.
SERVICES = ("ec2", "ssm", "sqs", "sts", "s3", "autoscaling", "service-quotas")
READ_BY_PYTHON = ("PYTHON", "LANG", "LC_", "TZ", "COVERAGE")
NEW_OBJECTS = 50_000  # before Python looks for garbage
FILES = 5  # of a request: stdin, stdout, stderr, the request itself, what becomes of it
READY = b"."  # what a server sends to each test process first
PATIENCE = 60.0  # seconds for which a server waits for a first test process, and it


# --- in the servers


def serve(descriptor: str, kind: str) -> None:
    """Fork for each request, until all test processes have ended."""
    gc.set_threshold(NEW_OBJECTS)  # also in what it forks
    programs = _loaded_cloud() if kind == CLOUD else _loaded_commands()
    gc.collect()
    gc.freeze()
    if files := Server(socket.socket(fileno=int(descriptor))).request():
        _become_command(files)
        programs[Path(sys.argv[0]).name]()
        sys.exit()


class Server:
    """Forks, and tells the test processes what became of their commands."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._clients: dict[int, socket.socket] = {}
        self._told: dict[int, int] = {}  # process -> where its end is reported
        self._ended, self._rung = os.pipe()  # is readable when a process has ended
        for file in (self._ended, self._rung):
            os.set_blocking(file, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._rung)

    def request(self) -> list[int]:
        """Return the files of a request, in its child; nothing, at the end."""
        patience: float | None = PATIENCE
        while True:
            waiting = [self._listener.fileno(), self._ended, *self._clients]
            ready = select.select(waiting, [], [], patience)[0]
            for each in ready:
                if client := self._clients.get(each):
                    if files := self._forked_for(client):
                        return files
                elif each == self._ended:
                    self._report()
                else:
                    self._accept()
            if not (self._clients or (patience and ready)):
                return []
            patience = None if self._clients else PATIENCE

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        who = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, user, _ = struct.unpack("3i", who)
        with contextlib.suppress(OSError):
            client.sendall(READY)
        if user == os.getuid():
            self._clients[client.fileno()] = client
        else:
            client.close()

    def _forked_for(self, client: socket.socket) -> list[int]:
        """Fork if it is a request; return its files in the child, else nothing."""
        data, files, _, _ = socket.recv_fds(client, 1, FILES)
        if not data:
            del self._clients[client.fileno()]
            client.close()
            return []
        if (pid := os.fork()) == 0:
            self._close()
            return files
        self._told[pid] = told = files.pop()
        for file in files:
            os.close(file)
        _write(told, pid)
        return []

    def _report(self) -> None:
        """Report the ends of the processes that have ended."""
        os.read(self._ended, 1 << 16)
        while self._told:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            told = self._told.pop(pid)
            _write(told, os.waitstatus_to_exitcode(status))
            os.close(told)

    def _close(self) -> None:
        """Let a child have nothing of its server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (self._listener, *self._clients.values()):
            each.close()
        for file in (self._ended, self._rung, *self._told.values()):
            os.close(file)


def _write(told: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test process has ended
        os.write(told, b"%d\n" % number)


def _loaded_commands() -> dict[str, Callable[[], object]]:
    import ctypes  # noqa: F401  of the kernels
    import encodings.idna  # noqa: F401  of each connection

    import boto3.s3.transfer
    import botocore.session
    from fabric.main import program

    from cnd import tasks  # here: the test process need not import it
    from cnd.cloud import connection, models

    core = botocore.session.get_session()
    models.read_fast(core.get_component("data_loader"))
    session = boto3.Session(botocore_session=core, region_name="us-east-1")
    for service in connection.SERVICES:  # what is computed once in a process
        session.client(service)  # type: ignore[call-overload]
    models.read_ahead(connection.SERVICES)
    _push_ahead()
    sys.path[0] = str(Path(sys.executable).parent)  # as in the installed script
    return {"cnd": tasks.main, "fab": program.run}


def _push_ahead() -> None:
    """Have the worker compiled and packed, as for the first host of each run."""
    from cnd.transport import payload, push

    class Host:
        """Answers as the loader of a host does that has no files yet."""

        def __init__(self) -> None:
            magic = importlib.util.MAGIC_NUMBER.hex()
            hello = {"machine": os.uname().machine, "magic": magic, "there": {}}
            self._lines = [json.dumps(each) for each in (hello, {"detached": True})]

        def sendall(self, data: bytes) -> None:
            """Drop it."""

        def recv(self, nbytes: int) -> bytes:
            return f"{self._lines.pop(0)}\n".encode()

    push.begin(Host(), "", payload.code, b"", {"program": "pow.py"})


def _loaded_cloud() -> dict[str, Callable[[], object]]:
    gc.disable()  # imports make no garbage
    from cnd.local.api import server

    os.environ.update(server.STRICT)  # moto reads it when it is imported
    from moto.moto_api._internal import mock_random

    from cnd.local.api import accounts, actions, backends, signatures  # noqa: F401

    for service in SERVICES:
        backends.read(service)
    actions.read()
    gc.enable()

    def begin() -> None:
        mock_random.seed()  # or all clouds would have the same instance ids
        server.main()

    return {CLOUD: begin}


def _become_command(files: Sequence[int]) -> None:
    """Return when this process is set up for its command."""
    *streams, asked, told = files
    os.close(told)
    cnd.BEGAN = time.monotonic()  # with this process, not with the server
    with open(asked, "rb") as file:
        request = json.loads(file.read())
    os.setsid()
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["words"]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)


# --- in the test process


def _umask() -> int:
    """Return this process's; it can be read only by setting another one."""
    os.umask(mask := os.umask(0o077))
    return mask


class Forked:
    """A process that was forked; what `subprocess.Popen` tells of one."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        streams: Sequence[int],
    ) -> None:
        self.args = [os.fsdecode(word) for word in words]
        self.environment = dict(environment)
        request = {
            "words": self.args,
            "folder": str(folder),
            "environment": self.environment,
            "umask": _umask(),
        }
        told, asked = os.pipe(), os.pipe()
        with open(os.devnull) as nothing:
            files = [nothing.fileno(), *streams, asked[0], told[1]]
            kind = CLOUD if self.args[0] == CLOUD else "commands"
            socket.send_fds(_server(kind), [b"."], files)
        for file in (asked[0], told[1]):
            os.close(file)
        with open(asked[1], "wb") as writer:
            writer.write(json.dumps(request).encode())
        self.returncode: int | None = None
        self._told = os.fdopen(told[0], "rb", buffering=0)
        self.pid = int(_line(self._told))

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(_line(self._told))
            self._told.close()
        return self.returncode


class ForkedProcess(Forked):
    """A command that was forked; to be used as a `subprocess.Popen` with pipes."""

    def __init__(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        out, err = os.pipe(), os.pipe()
        super().__init__(words, folder, environment, (out[1], err[1]))
        for file in (out[1], err[1]):
            os.close(file)
        self.stdout, self.stderr = os.fdopen(out[0]), os.fdopen(err[0])
        self._read = {stream: bytearray() for stream in (self.stdout, self.stderr)}
        _begun[:] = [*(each for each in _begun if each.poll() is None), self]

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read both streams to their ends, and wait for that of the process."""
        deadline = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        waiting = [stream for stream in self._read if not stream.closed]
        while waiting:
            ready, _, _ = select.select(waiting, [], [], left())
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            for stream in ready:
                data = os.read(stream.fileno(), 1 << 16)
                self._read[stream] += data
                if not data:
                    stream.close()
                    waiting.remove(stream)
        self.wait(left())
        out, err = (_text(data) for data in self._read.values())
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = ForkedProcess | subprocess.Popen[str]
_begun: list[ForkedProcess] = []  # those that may not have ended


def running(state: Path) -> dict[int, list[str]]:
    """Return the commands that run in a state folder, by their process ids."""
    return {
        each.pid: each.args
        for each in _begun
        if each.environment.get("XDG_STATE_HOME") == str(state) and each.poll() is None
    }


def _text(data: bytes | bytearray) -> str:
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")


def _line(file: io.RawIOBase) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += file.read(1) or b"-1\n"
    return line


def begin_cloud(folder: Path, environ: Mapping[str, str], log: BinaryIO) -> Forked:
    """Begin a local cloud, as `local.begin_process` does."""
    words, streams = (CLOUD, "--folder", str(folder)), [log.fileno()] * 2
    return Forked(words, Path("/"), environ, streams)


def can_fork(program: str, environment: Mapping[str, str]) -> bool:
    """Return whether a server has a program, and began as Python would begin here."""

    def read(variables: Mapping[str, str]) -> dict[str, str]:
        return {k: v for k, v in variables.items() if k.startswith(READ_BY_PYTHON)}

    alike = sys.platform == "linux" and read(environment) == read(ENVIRONMENT)
    return alike and program in (*PROGRAMS, CLOUD)


@functools.cache
def _server(kind: str) -> socket.socket:
    """Return the way to the server that the processes of this run of the tests share.

    The first that needs it starts it.  It ends when they all have.
    """
    run = ENVIRONMENT.get("PYTEST_XDIST_TESTRUNUID", os.getpid())
    address = f"\0cnd-tests-{os.getuid()}-{run}-{kind}"  # of no file
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        _begin_server(address, kind)
        ours = socket.socket(socket.AF_UNIX)
        ours.settimeout(PATIENCE)
        with contextlib.suppress(OSError):  # it listens not yet, or no longer
            ours.connect(address)
            if ours.recv(len(READY)) == READY:
                ours.settimeout(None)
                return ours
        ours.close()
        time.sleep(0.01)
    raise TimeoutError(f"no server for {kind} within {PATIENCE:g} s")


def _begin_server(address: str, kind: str) -> None:
    """Start it, unless another process has.

    Its streams are pipes, as those of each command are: Python asks when it begins.
    """
    for each in _servers:
        if each.poll():  # it was started from here, and failed
            raise RuntimeError(each.communicate()[1].decode())
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(address)
        except OSError:
            return
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(listener.fileno()), kind],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    _servers.append(process)


_servers: list[subprocess.Popen[bytes]] = []  # that this process has started
