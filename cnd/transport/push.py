"""The orchestrator's side of the protocol with `loader.py` on a host: see there.

One rule: it only sends and receives; `ssh.py` decides what a broken connection means.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import marshal
import re
import shlex
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cnd.model.events import plain
from cnd.on_instance import loader
from cnd.transport.bounded_lines import LONGEST

LOADER = Path(loader.__file__).read_bytes()
# Reads the loader, and runs it.
START = f"python3 -I -S -c 'import sys; exec(sys.stdin.buffer.read({len(LOADER)}))'"
MACHINE = re.compile(r"\w{1,40}")
MOST_NOISE = LONGEST  # bytes that a host may print besides


class Nonsense(ValueError):
    """The program on a host does not answer as the loader does."""


class Session(Protocol):
    """A `paramiko.Channel`, as far as it is used here."""

    def sendall(self, data: bytes) -> None: ...

    def recv(self, nbytes: int) -> bytes: ...


def command(log: str) -> str:
    """Return the shell command whose session `begin` needs.

    Args:
        log: a shell command that prints the system log.
    """
    return f"{START} {shlex.quote(log)}"


def begin(
    session: Session,
    folder: str,
    code: Callable[[str], Mapping[str, bytes]],
    job: bytes,
    order: Mapping[str, object],
    former: Sequence[str] = (),
) -> tuple[bool, bytes]:
    """Send the files that are missing, and start the worker.

    Args:
        session: in which `command` was just started.
        folder: where the files are to be.
        code: returns the files (name -> content) for a machine (`uname -m`).
        order: part, program and pause: see `loader.py`.
        former: the folders of earlier runs, beside this one, whose files will do.

    Returns:
        Whether it began, and the output after that, or instead of it.

    Raises:
        Nonsense: the program that answers is no loader.
    """
    _send(session, LOADER + _line({"folder": folder, "former": [*former]}))
    hello, rest = _line_with(session, b'"machine"')
    if not hello:
        return False, rest
    machine, magic, there = _introduced(hello)
    files = code(machine)
    missing = {n: d for n, d in files.items() if there.get(n) != _digest(d)}
    packed = _packed(tuple(missing.values()))
    program = str(order["program"])
    compiled = _compiled(files[program], program, magic)
    sizes = {"packed": len(packed), "code": len(compiled), "job": len(job)}
    listed = [[name, len(data), _digest(data)] for name, data in missing.items()]
    _send(session, _line({**order, **sizes, "files": listed}))
    _send(session, packed + compiled + job)
    detached, rest = _line_with(session, b'"detached"', rest)
    return bool(detached), rest


def _introduced(hello: bytes) -> tuple[str, str, Mapping[str, object]]:
    """Return a host's machine, its Python's magic number, and the files that it has."""
    try:
        host = plain(hello)
        machine, magic, there = host["machine"], host["magic"], host["there"]
    except (ValueError, KeyError) as error:
        raise Nonsense(f"it answered {hello[:80]!r}") from error
    if not (MACHINE.fullmatch(str(machine)) and isinstance(there, dict)):
        raise Nonsense(f"it answered {hello[:80]!r}")
    return str(machine), str(magic), there


def _send(session: Session, data: bytes) -> None:
    """Send it; if the program has ended, the reason is in its output, read next."""
    with contextlib.suppress(OSError):
        session.sendall(data)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _line_with(
    session: Session, key: bytes, received: bytes = b""
) -> tuple[bytes, bytes]:
    """Return the first line with a JSON object that has `key`, and what follows it.

    Other lines, a greeting perhaps, are dropped; if no such line comes, all output is
    returned with an empty line.

    Raises:
        Nonsense: more than `MOST_NOISE` came without it.
    """
    data, start = bytearray(received), 0
    while True:
        end = data.find(b"\n", start)
        if end >= 0:
            line = bytes(data[start:end])
            start = end + 1
            if line.startswith(b"{") and key in line:
                return line, bytes(data[start:])
            continue
        if len(data) > MOST_NOISE:
            raise Nonsense(f"it answered {bytes(data[:80])!r}, and more without end")
        chunk = session.recv(65536)
        if not chunk:
            return b"", bytes(data)
        data += chunk


@functools.cache
def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.lru_cache(maxsize=8)
def _packed(contents: tuple[bytes, ...]) -> bytes:
    return zlib.compress(b"".join(contents))


@functools.lru_cache(maxsize=8)
def _compiled(source: bytes, name: str, magic: str) -> bytes:
    """Return a program compiled for a host whose Python has `magic`, or nothing."""
    if importlib.util.MAGIC_NUMBER.hex() != magic:
        return b""
    return marshal.dumps(compile(source, name, "exec", dont_inherit=True))
