"""What a command prints: data to stdout, messages to stderr.

One rule: a reader that goes away is no failure of a command, and what cannot be printed
changes nothing of what the command has done.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

from invoke.exceptions import Exit

from cnd.system import standard_streams
from cnd.view import terminal


def print_data(text: str) -> None:
    """Print data to stdout, at once."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        reader_is_gone()


def say(text: str) -> None:
    """Print a message to stderr, folded to the width of a terminal."""
    print(terminal.wrapped(text, terminal.width_of(sys.stderr), 2), file=sys.stderr)


def reader_is_gone() -> bool:
    """Flush the output; return whether the reader of a stream has gone away.

    What is printed to that stream afterwards is dropped: Python would report it.
    """
    # https://docs.python.org/3/library/signal.html#note-on-sigpipe
    gone = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        try:
            poll.register(stream, 0)
            stream.flush()
            broken = any(what & select.POLLERR for _, what in poll.poll(0))
        except BrokenPipeError:
            broken = True
        except ValueError:  # it is no file
            continue
        except OSError:  # the device is full
            standard_streams.silence(stream)
            continue
        if broken:
            standard_streams.silence(stream)
        gone = gone or broken
    return gone


def ignore_lost_readers() -> None:
    """Make a reader that goes away no failure of `fab`, whose code is not ours."""
    usual = sys.excepthook

    def end(kind: Any, error: BaseException, trace: Any) -> None:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            os._exit(0)  # a hook cannot change the exit status otherwise
        usual(kind, error, trace)

    sys.excepthook = end
    atexit.register(reader_is_gone)


@contextlib.contextmanager
def left_at_once() -> Iterator[None]:
    """End the program after the block, without Python's clean-up of its memory.

    With boto3 loaded the clean-up takes 0.4 s of computing, a third of a short command
    and many seconds on a busy machine, and Ctrl-C does not end it.  Threads that are
    not daemons are still waited for, and functions registered with `atexit` in the
    block are called.
    """
    status = 1  # if the block ends with a traceback

    def leave() -> None:
        reader_is_gone()
        os._exit(status)

    atexit.register(leave)
    try:
        yield
        status = 0
    except Exit as end:
        status = end.code
        raise
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
