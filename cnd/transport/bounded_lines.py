"""The output of another machine as lines, limited in length and number.

One rule: whatever a host sends, this process keeps no more than is written here, and
works no more than in proportion to what was sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

LONGEST = 65536  # bytes of a line that are kept; the rest of it is dropped

# What a host may send at once, and besides per second since it could begin to send.  A
# worker sends a line every second, of up to some 200 bytes and its witnesses; every
# tenth of a second where a small fleet looks for the smallest nonce.
BYTES_AT_ONCE, BYTES_PER_SECOND = 256 << 10, 32 << 10
LINES_AT_ONCE, LINES_PER_SECOND = 500, 20.0
NOISE_AT_ONCE, NOISE_PER_SECOND = 100, 1.0  # lines that are no events


class Splitter:
    """Splits the chunks of a stream into lines.

    `position` is how many bytes of the stream are in lines that were returned, with
    their newlines: where to go on reading the stream.
    """

    def __init__(self, *, longest: int = LONGEST, position: int = 0) -> None:
        self._longest = longest
        self._begun = bytearray()  # of the line that is not complete yet
        self._size = 0  # bytes of that line, also those that were not kept
        self.position = position
        self.dropped = 0  # bytes of lines that were too long

    def lines(self, chunk: bytes) -> Iterator[bytes]:
        """Take in a chunk; yield the lines that are complete now, without newlines."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._add(end)
            line, size = bytes(self._begun), self._size
            self._begun, self._size = bytearray(), 0
            self.position += size + 1
            yield line
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        kept = piece[: self._longest - len(self._begun)]
        self._begun += kept
        self._size += len(piece)
        self.dropped += len(piece) - len(kept)


@dataclass
class Allowance:
    """How much of the output of one host is kept; the rest is counted."""

    began: float  # since when it could send, on the monotonic clock
    clock: Callable[[], float] = time.monotonic
    dropped: int = 0  # lines
    dropped_bytes: int = 0
    _bytes: int = field(default=0, repr=False)
    _lines: int = field(default=0, repr=False)
    _noise: int = field(default=0, repr=False)

    def keeps(self, size: int) -> bool:
        """Return whether a line of `size` bytes is kept, and count it."""
        age = max(0.0, self.clock() - self.began)
        many = self._lines >= LINES_AT_ONCE + LINES_PER_SECOND * age
        if many or self._bytes + size > BYTES_AT_ONCE + BYTES_PER_SECOND * age:
            self.drop(size)
            return False
        self._lines += 1
        self._bytes += size
        return True

    def keeps_noise(self, size: int) -> bool:
        """Return whether a line that `keeps` has kept, and is no event, is reported."""
        age = max(0.0, self.clock() - self.began)
        if self._noise >= NOISE_AT_ONCE + NOISE_PER_SECOND * age:
            self.drop(size)
            return False
        self._noise += 1
        return True

    def drop(self, size: int, lines: int = 1) -> None:
        """Count what was dropped."""
        self.dropped += lines
        self.dropped_bytes += size

    def account(self) -> dict[str, Any]:
        """Return what an event reports of the lines that were dropped."""
        return {"dropped": self.dropped, "bytes": self.dropped_bytes}


def read(receive: Callable[[int], bytes], most: int) -> tuple[bytes, bool]:
    """Read until the end, but keep no more than `most` bytes.

    Returns:
        What was read, and whether that is all.
    """
    kept = bytearray()
    while chunk := receive(65536):
        if len(kept) + len(chunk) > most:
            return bytes(kept + chunk[: most - len(kept)]), False
        kept += chunk
    return bytes(kept), True
