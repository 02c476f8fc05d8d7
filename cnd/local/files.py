"""The state folder of an embedded cloud: who is alive, and where it answers.

One rule: a lock says who lives, never a file's existence: the kernel drops a
lock when its holder dies, however it dies.

    endpoint.json  where the cloud answers (0600)    lock   one `up` or `down` at a time
    cloud.log      what the server has printed       alive  held by the living server
    hosts/         the file trees of the hosts       ssh_config, known_hosts
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from cnd import home, private, small
from cnd.errors import CloudError, UsageError
from cnd.local.paths import SAFE_TREE

ENDPOINT, LOG = "endpoint.json", "cloud.log"
LAST_BYTES = 4096  # of the log: more than its last line
POLL_SECONDS = 0.01
PROBED_SECONDS = 1.0  # for those to let go who only look whether a server lives


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return the state folder, which may not be there; UsageError if none is known."""
    return Path(os.path.realpath(home.state_folder(environ))) / "local"


def made_folder(environ: Mapping[str, str]) -> Path:
    """Return, and make, the state folder, by a name that means nothing to a shell.

    Raises:
        UsageError: it cannot be made.
    """
    folder = state_folder(environ)
    try:
        private.folder(folder.parent)
        private.folder(folder)
        return folder if is_plain(folder) else _linked(folder, environ)
    except OSError as error:
        hint = f"set {home.STATE} to a folder that can be written to"
        raise UsageError(f"no state folder: {error}", hint=hint) from error


def is_plain(folder: Path) -> bool:
    """Whether a host's tree may lie in `folder`: its name is put in shell commands."""
    return bool(SAFE_TREE.fullmatch(str(folder)))


def _linked(folder: Path, environ: Mapping[str, str]) -> Path:
    """Return a link to `folder`, in a folder that nobody else can write to."""
    given = Path(environ.get("XDG_RUNTIME_DIR", ""))
    bases = [given] if given.is_absolute() else []
    bases = [base for base in (*bases, Path(tempfile.gettempdir())) if is_plain(base)]
    place = (bases or [Path("/tmp")])[0] / f"cnd-{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = place.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(errno.EPERM, "it is somebody else's", str(place))
    place.chmod(0o700)
    link = place / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    with suppress(FileExistsError):  # by its name it leads nowhere else
        link.symlink_to(folder)
    return link


@contextmanager
def caller_lock(folder: Path, deadline: float) -> Iterator[None]:
    """Be the only `up` or `down`; raises CloudError at `deadline` (monotonic)."""
    with _lock_file(folder / "lock") as file:
        while not _locked(file.fileno()):
            if time.monotonic() > deadline:
                raise CloudError("another command is starting or ending the cloud")
            time.sleep(POLL_SECONDS)
        yield


@contextmanager
def alive_lock(folder: Path) -> Iterator[None]:
    """Be the living server; raises CloudError if there is one."""
    with _lock_file(folder / "alive") as file:
        deadline = time.monotonic() + PROBED_SECONDS
        while not _locked(file.fileno()):  # `is_alive` takes it for an instant
            if time.monotonic() > deadline:
                raise CloudError("an embedded cloud already runs here")
            time.sleep(POLL_SECONDS)
        yield


def is_alive(folder: Path) -> bool:
    """Say whether a server lives, answering or not."""
    try:
        with small.opened(folder / "alive") as file:
            return not _locked(file.fileno())
    except OSError:  # nothing has ever lived here
        return False


def read_endpoint(folder: Path) -> dict[str, Any] | None:
    """Return what the server has written; it may be dead by now."""
    try:
        record = json.loads(small.read(folder / ENDPOINT))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_endpoint(folder: Path, record: Mapping[str, Any]) -> None:
    private.write(folder / ENDPOINT, json.dumps(record))


def remove_endpoint(folder: Path) -> None:
    (folder / ENDPOINT).unlink(missing_ok=True)


def last_log_line(folder: Path) -> str:
    try:
        with small.opened(folder / LOG) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
            lines = file.read(LAST_BYTES).decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")


@contextmanager
def _lock_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to lock, made if it is missing; UsageError if it cannot be."""
    try:
        # Of a pipe in its place `open` would wait for a reader.
        flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        yield file


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
