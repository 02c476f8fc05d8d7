"""Files that only their owner may read: folders of mode 0700, files of mode 0600.

One rule: so they are whatever the umask is, and whichever process made them before.  A
file is never seen half, and nothing is written through a symbolic link in its place.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

FOLDER, FILE = 0o700, 0o600
OTHERS = 0o077  # what group and others may do


def folder(path: Path) -> Path:
    """Make a folder, with those above it; close to others one that is there already.

    The folders above that are there stay as they are.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    try:
        path.mkdir(FOLDER)
    except FileNotFoundError:
        folder(path.parent)
        return folder(path)
    except FileExistsError:
        found = path.stat()
        if found.st_mode & OTHERS and found.st_uid == os.geteuid():
            path.chmod(FOLDER)
        os.scandir(path).close()  # NotADirectoryError
    else:
        path.chmod(FOLDER)  # the umask may have taken even the owner's rights
    return path


@contextlib.contextmanager
def replaced(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Yield a draft that takes the place of the file `path` after the block.

    If the block raises, the file stays as it was.

    Args:
        durable: whether it is to be on disk, with its name, before this returns.
    """
    with _draft(path, os.replace, durable=durable) as file:
        yield file


def write(path: Path, data: str | bytes, *, durable: bool = False) -> None:
    """Write a file whole; text as UTF-8, with "?" for what that cannot express."""
    with replaced(path, durable=durable) as file:
        file.write(data if isinstance(data, bytes) else data.encode(errors="replace"))


def write_once(path: Path, text: str) -> None:
    """Write a file whole, unless it is there: of several at once the first remains."""
    with contextlib.suppress(FileExistsError), _draft(path, _placed_once) as file:
        file.write(text.encode())


@contextlib.contextmanager
def _draft(
    path: Path, place: Callable[[str, Path], None], *, durable: bool = False
) -> Iterator[BinaryIO]:
    """Yield a draft beside `path`, and have it placed there after the block."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w+b") as file:
            os.fchmod(descriptor, FILE)
            yield file
            file.flush()
            if durable:
                os.fsync(descriptor)
        place(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    if durable:
        sync(path.parent)


def _placed_once(draft: str, path: Path) -> None:
    """Give a draft its name; FileExistsError where a file has it already."""
    os.link(draft, path)
    os.unlink(draft)


def open_end(path: Path) -> BinaryIO:
    """Open a file to add to its end; it is made where it is missing.

    Raises:
        OSError: it cannot be opened, or is a symbolic link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, FILE)
    found = os.fstat(descriptor)
    if found.st_mode & OTHERS and found.st_uid == os.geteuid():
        os.fchmod(descriptor, FILE)
    return open(descriptor, "ab")


def sync(folder: Path) -> None:
    """Have the names in a folder on disk: a file's own fsync does not write them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
