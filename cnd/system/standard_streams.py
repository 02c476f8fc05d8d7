"""The standard streams of the program: all three open, and any text can be written.

One rule: characters that a stream cannot express are replaced.  Messages on stderr are
not the result, so no failure to write them matters; data on stdout that was not written
is an error, which the command reports.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


class MessageStream(io.TextIOWrapper):
    """A text stream that fails silently, and from then on drops everything."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except (OSError, UnicodeError):
            silence(self)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            silence(self)


class DataStream(io.TextIOWrapper):
    """A text stream that remembers why it could not be written to."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        with self._noted():
            return super().write(text)

    def flush(self) -> None:
        with self._noted():
            super().flush()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # no failure: the reader has closed its end
            raise
        except OSError as error:
            self.failure = error
            silence(self)
            raise


def prepare() -> None:
    """Open those of the three that are closed, and let both outputs take any text."""
    for name, number in NUMBERS.items():
        if getattr(sys, name) is None:  # it was closed: ``2>&-``
            setattr(sys, name, _nothing(number))
    sys.stdout = sys.__stdout__ = _converted(DataStream, sys.stdout)  # type: ignore
    sys.stderr = sys.__stderr__ = _converted(MessageStream, sys.stderr)  # type: ignore


def _converted(kind: type[io.TextIOWrapper], stream: TextIO) -> TextIO:
    """Return a stream of `kind` that takes the place of another."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # a test's own
    stream.flush()
    encoding, lines = stream.encoding, stream.line_buffering
    return kind(stream.detach(), encoding, errors="replace", line_buffering=lines)


def unwritten() -> OSError | None:
    """Return why stdout could not be written to, or None."""
    return getattr(sys.stdout, "failure", None)


def silence(stream: TextIO) -> None:
    """Drop all that is written to a stream, and what still waits in its buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _nothing(number: int) -> TextIO:
    """Return an empty stream with `number`, so that no other file gets that number."""
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    return open(number, "w" if number else "r", closefd=False)
