"""The state folder of a local cloud: whether a cloud lives, and where it answers.

One rule: a lock shows that a cloud lives, never the existence of a file: the kernel
releases a lock when its holder dies, however it dies.

    endpoint.json  where the cloud answers (0600)    lock   one `up` or `down` at a time
    cloud.log      the server's output               alive  held by the living server
    hosts/         the file trees of the hosts       ssh_config, known_hosts
"""

from __future__ import annotations

import errno
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

from cnd.errors import CloudError, UsageError
from cnd.local.host.paths import SAFE_TREE
from cnd.system import folders, locks, private_files, small_files

ENDPOINT, LOG = "endpoint.json", "cloud.log"
LAST_BYTES = 4096  # of the log: more than its last line
POLL_SECONDS = 0.01
PROBED_SECONDS = 1.0  # for processes that only check whether a server lives


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return the state folder, existing or not; UsageError if none is known."""
    return Path(os.path.realpath(folders.state_folder(environ))) / "local"


def made_folder(environ: Mapping[str, str]) -> Path:
    """Make the state folder; return a name of it without special shell characters.

    Raises:
        UsageError: it cannot be made.
    """
    folder = state_folder(environ)
    try:
        private_files.folder(folder.parent)
        private_files.folder(folder)
        return folder if is_plain(folder) else _linked(folder, environ)
    except OSError as error:
        hint = f"set {folders.STATE} to a folder that can be written to"
        raise UsageError(f"no state folder: {error}", hint=hint) from error


def is_plain(folder: Path) -> bool:
    """Tell whether hosts may lie in `folder`: shell commands contain its name."""
    return bool(SAFE_TREE.fullmatch(str(folder)))


def _linked(folder: Path, environ: Mapping[str, str]) -> Path:
    """Return a link to `folder`, in a folder that no other user can write to."""
    given = folders.base(folders.RUNTIME, environ)
    bases = [base for base in (given, Path(tempfile.gettempdir())) if base]
    bases = [base for base in bases if is_plain(base)]
    place = (bases or [Path("/tmp")])[0] / f"cnd-{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = place.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(errno.EPERM, "another user owns it", str(place))
    place.chmod(0o700)
    link = place / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    with suppress(FileExistsError):  # its name is a digest of where it leads
        link.symlink_to(folder)
    return link


@contextmanager
def caller_lock(folder: Path, deadline: float) -> Iterator[None]:
    """Be the only `up` or `down`; CloudError at `deadline` (monotonic time)."""
    with _lock_file(folder / "lock") as file:
        while not locks.taken(file.fileno()):
            if time.monotonic() > deadline:
                raise CloudError("another command is starting or ending the cloud")
            time.sleep(POLL_SECONDS)
        yield


@contextmanager
def alive_lock(folder: Path) -> Iterator[None]:
    """Be the living server; CloudError if there is another one."""
    with _lock_file(folder / "alive") as file:
        deadline = time.monotonic() + PROBED_SECONDS
        while not locks.taken(file.fileno()):  # `is_alive` takes it for a moment
            if time.monotonic() > deadline:
                raise CloudError("a local cloud already runs here")
            time.sleep(POLL_SECONDS)
        yield


def is_alive(folder: Path) -> bool:
    """Tell whether a server lives, answering or not."""
    try:
        with small_files.opened(folder / "alive") as file:
            return not locks.taken(file.fileno())
    except OSError:  # no server has ever run here
        return False


def read_endpoint(folder: Path) -> dict[str, Any] | None:
    """Return the server's record; the server may be dead by now."""
    try:
        record = json.loads(small_files.read(folder / ENDPOINT))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_endpoint(folder: Path, record: Mapping[str, Any]) -> None:
    private_files.write(folder / ENDPOINT, json.dumps(record))


def remove_endpoint(folder: Path) -> None:
    (folder / ENDPOINT).unlink(missing_ok=True)


def last_log_line(folder: Path) -> str:
    try:
        with small_files.opened(folder / LOG) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
            lines = file.read(LAST_BYTES).decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")


@contextmanager
def _lock_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to lock, made if it is missing; UsageError if it cannot be."""
    try:
        # If a pipe has this name, `open` would wait for a reader.
        flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        yield file
