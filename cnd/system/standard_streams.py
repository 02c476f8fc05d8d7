"""The standard streams of the program: there, and in nobody's way.

One rule: what cannot be shown as it is, is replaced; what goes to stderr is told in
passing, so no failure to write it matters.  Data on stdout that was not written is an
error, which is for the command to tell.
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
    """A text stream that fails silently, and from then on is none."""

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
        except BrokenPipeError:  # no failure: its reader has seen enough
            raise
        except OSError as error:
            self.failure = error
            silence(self)
            raise


def prepare() -> None:
    """Have all three streams, and any text fit for the two that are written to."""
    for name, number in NUMBERS.items():
        if getattr(sys, name) is None:  # it was closed: ``2>&-``
            setattr(sys, name, _nothing(number))
    sys.stdout = sys.__stdout__ = _made(DataStream, sys.stdout)  # type: ignore
    sys.stderr = sys.__stderr__ = _made(MessageStream, sys.stderr)  # type: ignore


def _made(kind: type[io.TextIOWrapper], stream: TextIO) -> TextIO:
    """Return a stream of `kind` in the place of another."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # a test's own
    stream.flush()
    encoding, lines = stream.encoding, stream.line_buffering
    return kind(stream.detach(), encoding, errors="replace", line_buffering=lines)


def unwritten() -> OSError | None:
    """Return why stdout could not be written to, if that was so."""
    return getattr(sys.stdout, "failure", None)


def silence(stream: TextIO) -> None:
    """Let all that is written to a stream go nowhere, also what is written already."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _nothing(number: int) -> TextIO:
    """Return an empty stream, which has `number`: no file is to get it by chance."""
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    return open(number, "w" if number else "r", closefd=False)
