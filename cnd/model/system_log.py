"""A host's system log: what is requested of a host, and what is kept of its answer.

One rule: the newest part counts.  The log is requested from its end, in growing steps,
so that something is kept of a host that is too slow for all of it; no more is accepted
than was requested, compressed or not; and what is missing is stated.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

MOST = 64 << 20  # bytes of one log that are kept
MOST_OF_FLEET = 4 << 30  # bytes of all logs of a run together
LEAST = 1 << 20  # bytes of one log, however many there are
FIRST_STEPS = (256 << 10, 4 << 20)  # bytes, before all that is kept
CHUNK = 65536  # bytes
SLACK = 65536  # bytes that compression and the first line may add
SHORTEST_LINE = (
    40  # bytes; `journalctl -o short-iso` writes about as many before a text
)
GZIP = b"\x1f\x8b"  # RFC 1952, 2.3.1
HEAD = re.compile(rb"log-bytes:\s*(\d{1,15}|\?)(?: .*)?")
MOST_HEAD = 200  # bytes of the first line

# Ubuntu has a file, older Amazon Linux another one.  The newest has only the journal,
# whose length is not known before it is read.
COMMAND = (
    "if test -r /var/log/syslog; then printf 'log-bytes: '; wc -c </var/log/syslog; "
    "tail -c {most} /var/log/syslog; "
    "elif sudo -n test -e /var/log/messages 2>/dev/null; then printf 'log-bytes: '; "
    "sudo -n wc -c /var/log/messages; sudo -n tail -c {most} /var/log/messages; "
    "else echo 'log-bytes: ?'; "
    "sudo -n journalctl -o short-iso --no-pager -n {lines} | tail -c {most}; fi"
)
PACKED = (
    "{{ {command}; }} | "
    "if command -v gzip >/dev/null 2>&1; then exec gzip -1; else exec cat; fi"
)


class InvalidLog(ValueError):
    """What a host sends is not what was requested."""


@dataclass(frozen=True)
class LogPart:
    """The newest part of a log, as a host has sent it."""

    kept: int  # bytes
    missing: int | None = 0  # bytes of its beginning; None: an unknown number

    @property
    def whole(self) -> bool:
        return self.missing == 0

    @property
    def fields(self) -> dict[str, int | None]:
        """The fields of the event of its arrival."""
        return {} if self.whole else {"missing": self.missing}

    @property
    def note(self) -> bytes:
        """The first line of a file that holds it; empty where nothing is missing."""
        if self.whole:
            return b""
        what = "some" if self.missing is None else f"{self.missing:,} bytes"
        text = f"[cnd: {what} of the beginning of this log are missing here: "
        return f"{text}it is too long, or came too slowly]\n".encode()


def most_of(instances: int) -> int:
    """Return how many bytes of each log are kept in a fleet of `instances`."""
    return max(LEAST, min(MOST, MOST_OF_FLEET // instances))


def steps(most: int) -> Iterator[int]:
    """Yield the numbers of bytes to request, one after the other, up to `most`."""
    yield from (step for step in FIRST_STEPS if step < most)
    yield most


def command(most: int) -> str:
    """Return a shell command that prints a log's length, and its last `most` bytes."""
    return COMMAND.format(most=most, lines=most // SHORTEST_LINE + 1)


def packed(most: int) -> str:
    """Return `command`, its output compressed by gzip(1) where the host has it."""
    return PACKED.format(command=command(most))


def keep(chunks: Iterable[bytes], most: int, file: BinaryIO) -> LogPart:
    """Write what a host answers to `packed(most)` to `file`, without its first line.

    Raises:
        InvalidLog: it is more than was requested, cut short, or no answer at all.
        OSError: the file cannot be written.
    """
    pieces = _unpacked(chunks, most + SLACK)
    size, text = _headed(pieces)
    kept = file.write(text)
    for piece in pieces:
        kept += file.write(piece)
    if kept > most:
        raise InvalidLog(f"it sends more than the {most} bytes that it was asked for")
    if size is None:
        return LogPart(kept, 0 if kept < most else None)
    return LogPart(kept, max(0, size - kept))


def copy(part: LogPart, source: BinaryIO, target: BinaryIO) -> None:
    """Copy a part that `keep` wrote; without its first line where that is cut."""
    source.seek(0)
    target.write(part.note)
    chunk = source.read(CHUNK)
    if not part.whole and (rest := chunk.partition(b"\n")[2]):
        chunk = rest
    while chunk:
        target.write(chunk)
        chunk = source.read(CHUNK)


def _headed(pieces: Iterator[bytes]) -> tuple[int | None, bytes]:
    """Return a log's length, None where it is not known, and the text read so far."""
    begun = b""
    for piece in pieces:
        begun += piece
        if b"\n" in begun or len(begun) > MOST_HEAD:
            break
    head, _, text = begun.partition(b"\n")
    found = HEAD.fullmatch(head)
    if not found:
        raise InvalidLog(f"it answers {head[:80]!r}" if head else "it sends none")
    return (None if found[1] == b"?" else int(found[1])), text


def _unpacked(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Yield the content of `chunks`; `InvalidLog` once either exceeds `most` bytes."""
    received = unpacked = 0
    begun, inflater = b"", None
    for chunk in chunks:
        received += len(chunk)
        if inflater and inflater.eof:
            raise InvalidLog("it goes on after its end")
        if received < len(GZIP):
            begun += chunk
            continue
        chunk, begun = begun + chunk, b""
        if received == len(chunk) and chunk.startswith(GZIP):
            inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        for piece in _inflated(inflater, chunk) if inflater else (chunk,):
            unpacked += len(piece)
            if unpacked > most:
                raise InvalidLog("it sends more than it was asked for")
            yield piece
        if received > most:
            raise InvalidLog("it sends more than it was asked for")
    if inflater and not inflater.eof:
        raise InvalidLog("it was cut short")
    yield begun


def _inflated(inflater: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    """Yield what `data` unpacks to, in pieces of at most `CHUNK` bytes."""
    try:
        while piece := inflater.decompress(data, CHUNK):
            yield piece
            data = inflater.unconsumed_tail
    except zlib.error as error:
        raise InvalidLog(f"what it sends is no valid gzip data: {error}") from error
