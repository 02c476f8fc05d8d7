"""Lines of text on a terminal: how wide it is, and how a line is folded.

One rule: a stream is only read from here, and never changed.
"""

from __future__ import annotations

import os
import textwrap
from typing import TextIO

STAMP = 11  # characters of a time before a line, and the space after it
NO_BREAK = "\u00a0"


def encoded(text: str, stream: TextIO) -> bytes:
    """Return `text` as the stream would write it, what does not fit replaced."""
    return text.encode(stream.encoding or "utf-8", "replace")


def width_of(stream: TextIO) -> int | None:
    """Return how many characters a line of a terminal has; None: it is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # ValueError: it is no file
        return None


def wrapped(line: str, width: int | None, indent: int) -> str:
    """Return `line`, folded at words to `width`; what follows is indented so far."""
    # A path or a hash alone is left to the terminal: to be copied in one piece.
    if width is None or len(line) <= width or " " not in line[indent:]:
        return line.replace(NO_BREAK, " ")
    lines = textwrap.wrap(
        line,
        max(width, indent + 20),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(NO_BREAK, " ")
