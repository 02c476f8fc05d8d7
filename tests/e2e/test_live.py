"""What a person sees on a terminal, and what a file gets instead."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from tests.support.terminal import BIN, Terminal
from tests.support.waiting import SOON

ESCAPE = "\x1b"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def on_terminal(user: Terminal, *words: str, **extra: str) -> tuple[str, str]:
    """Run a command with stderr on a terminal of 60x20; return stdout and stderr."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
    environment = {**user.environment, "TERM": "xterm-256color", **extra}
    process = subprocess.Popen(
        [BIN / "cnd", *words],
        cwd=user.folder,
        env={k: v for k, v in environment.items() if v or k != "NO_COLOR"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 60
    with open(ours, "rb", buffering=0) as screen:
        while time.monotonic() < deadline:
            if not select.select([screen], [], [], 1.0)[0]:
                continue
            try:
                seen += screen.read(65536)
            except OSError:  # EIO: the other side is closed
                break
    out, _ = process.communicate(timeout=60)
    return out.decode(), seen.decode()


def test_a_terminal_shows_a_table_and_is_left_sane(terminal: Terminal) -> None:
    found = ("start", "--t", "20", "--d", "2", "--n", "2", "--json")
    out, err = on_terminal(terminal, *found, NO_COLOR="")

    assert json.loads(out)["outcome"] == "found"
    assert "instance" in err or "address" in err
    assert "searches" in err or "found" in err
    assert "2 terminated" in err
    assert err.count(HIDE_CURSOR) == err.count(SHOW_CURSOR) == 1
    assert err.rindex(SHOW_CURSOR) > err.rindex(HIDE_CURSOR)


@pytest.mark.parametrize(
    ("word", "variables"),
    [("--plain", {}), ("", {"NO_COLOR": "1"}), ("", {"TERM": "dumb"})],
)
def test_lines_are_printed_on_request(
    terminal: Terminal, word: str, variables: dict[str, str]
) -> None:
    words = ["start", "--t", "20", "--d", "1", "--n", "1", *filter(None, [word])]
    _, err = on_terminal(terminal, *words, **variables)

    assert ESCAPE not in err
    assert "launching 1 x t3.micro" in err


def test_an_error_on_the_way_leaves_the_terminal_sane(terminal: Terminal) -> None:
    terminal.run("local", "up")
    terminal.run("local", "fault", "RunInstances", "--code", "UnauthorizedOperation")
    _, err = on_terminal(terminal, "start", "--d", "2", NO_COLOR="")
    terminal.run("local", "fault", "--clear")

    assert "UnauthorizedOperation" in err
    assert err.count(HIDE_CURSOR) == err.count(SHOW_CURSOR)


def test_ctrl_c_is_answered_at_once(terminal: Terminal) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [BIN / "cnd", "start", "--t", "600", "--d", "9", "--n", "1"],
        cwd=terminal.folder,
        env={**terminal.environment, "TERM": "xterm-256color", "NO_COLOR": ""},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen, asked, deadline = b"", False, time.monotonic() + 60
    with open(ours, "rb", buffering=0) as screen:
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # EIO: the other side is closed
                seen += screen.read(65536)
                if b"difficulty 9" in seen and not asked:  # nothing is launched yet
                    asked, asked_at = True, time.monotonic()
                    process.send_signal(signal.SIGINT)
                if b"stopping: Ctrl-C; again" not in seen:
                    answered = time.monotonic()
                continue
            break
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert answered - asked_at < SOON
    assert seen.rstrip().endswith(SHOW_CURSOR.encode())
    assert terminal.live() == []
