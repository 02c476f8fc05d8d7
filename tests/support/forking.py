"""`cnd`, `fab` and local clouds in processes that are forked: they are imported once.

To start Python and to import what a command needs takes a third of a second of
computing, a local cloud half a second, and the tests run some thousand commands and
dozens of clouds.  So each test process has a server for commands and one for clouds,
which has imported what they need and does nothing else; a request has it fork.  The
child is a process as any other: with its own id, session, folder, environment and
streams.  It calls what the installed script calls, and ends as Python ends.

One rule: what depends on how Python itself begins is no case for this file.  Another
program, or variables that Python reads, need a process that is started.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import select
import signal
import socket
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
FILES = 5  # of a request: stdin, stdout, stderr, the request itself, what becomes of it


# --- in the servers


def serve(descriptor: str, kind: str) -> None:
    """Fork for each request, until the test process has ended."""
    programs = _loaded_cloud() if kind == CLOUD else _loaded_commands()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for commands
    requests = socket.socket(fileno=int(descriptor))
    while True:
        data, files, _, _ = socket.recv_fds(requests, 1, FILES)
        if not data:
            return
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    requests.close()
    _become_command(files)
    programs[Path(sys.argv[0]).name]()
    sys.exit()


def _loaded_commands() -> dict[str, Callable[[], object]]:
    import boto3.s3.transfer  # noqa: F401  most commands come to it
    from botocore.loaders import Loader
    from fabric.main import program

    from cnd import tasks  # here: the test process need not import it
    from cnd.cloud import connection, models

    models.read_fast(known := Loader())
    for service in connection.SERVICES:  # what the clients of every run are made of
        known.load_service_model(service, "service-2")
    sys.path[0] = str(Path(sys.executable).parent)  # as in the installed script
    return {"cnd": tasks.main, "fab": program.run}


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
    """Return in a child that is set up for its command; its parent reports its end."""
    *streams, asked, told = files
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(asked, "rb") as file:
        request = json.loads(file.read())
    if pid := os.fork():
        for stream in streams:
            os.close(stream)
        os.write(told, b"%d\n" % pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(told, b"%d\n" % status)
        os._exit(0)
    os.close(told)
    cnd.BEGAN = time.monotonic()  # with this process, not with the server
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["words"]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)


# --- in the test process


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
        }
        told, asked = os.pipe(), os.pipe()
        with open(os.devnull) as nothing:
            files = [nothing.fileno(), *streams, asked[0], told[1]]
            kind = CLOUD if self.args[0] == CLOUD else "commands"
            socket.send_fds(_server(kind)[1], [b"."], files)
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
def _server(kind: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Return a server of this process, which ends when this does, and the way to it.

    Its streams are pipes, as those of each command are: Python asks when it begins.
    """
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(theirs.fileno()), kind],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()
    return process, ours
