"""Whatever the standard streams are, a run ends as it would have."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.support.terminal import BIN, Terminal
from tests.support.users import START


def shell(
    terminal: Terminal, words: str, **extra: str
) -> subprocess.CompletedProcess[bytes]:
    """Run `cnd start` as a shell does, with its streams led elsewhere."""
    return subprocess.run(
        ["sh", "-c", f'"$0" "$@" {words}', BIN / "cnd", *START],
        cwd=terminal.folder,
        env={**terminal.environment, **extra},
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "words", [">&-", "2>&-", ">&- 2>&- <&-", "2>/dev/full", "--json >&-"]
)
def test_a_stream_that_is_closed_or_full_changes_nothing(
    terminal: Terminal, words: str
) -> None:
    before = terminal.runs()
    done = shell(terminal, words)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    (run,) = set(terminal.runs()) - set(before)
    assert json.loads((run / "result.json").read_text())["nonce"] == 116


def test_a_result_that_could_not_be_printed_is_said_to_be_in_its_file(
    terminal: Terminal,
) -> None:
    done = shell(terminal, "--json >/dev/full")
    assert done.returncode == 0
    last = done.stderr.decode().splitlines()[-1]
    told, _, path = last.partition("; the result is in ")
    assert told == "stdout cannot be written to: No space left on device"
    assert json.loads(Path(path).read_text())["outcome"] == "found"
    words = f'"{BIN / "cnd"}" verify --nonce 116 --d 2 >/dev/full'
    other = subprocess.run(["sh", "-c", words], capture_output=True, text=True)
    assert (other.returncode, other.stderr) == (2, f"cnd: {told}\n")


@pytest.mark.parametrize("encoding", ["ascii:strict", "iso8859-2", "euc-jp", "utf-16"])
def test_what_an_encoding_does_not_have_is_replaced(
    terminal: Terminal, encoding: str
) -> None:
    done = shell(terminal, "--block 'jörg — ½ \U0001f600'", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    told = done.stdout.decode(encoding.partition(":")[0])
    assert "golden nonce" in told
    assert "0 instances running" in told
    if "ascii" in encoding:
        assert " ? search " in told


@pytest.mark.parametrize(
    "odd",
    [
        {"COLUMNS": "0", "LINES": "0"},
        {"COLUMNS": "1", "LINES": "1"},
        {"COLUMNS": "\N{SUPERSCRIPT TWO}", "LINES": "-5"},
        {"TERM": "no/such", "PYTHONIOENCODING": "ascii:strict"},
    ],
)
def test_a_terminal_of_whatever_kind_gets_its_cursor_back(
    terminal: Terminal, odd: dict[str, str]
) -> None:
    ours, its = pty.openpty()
    done = subprocess.Popen(
        [BIN / "cnd", *START],
        env={**terminal.environment, "TERM": "xterm", **odd},
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    said = b""
    try:
        while chunk := os.read(ours, 65536):
            said += chunk
    except OSError:  # EIO: the other side is closed
        pass
    assert done.wait(60) == 0, said
    assert b"Traceback" not in said
    assert b"could not be shown" not in said
    assert said.rfind(b"\x1b[?25h") >= said.rfind(b"\x1b[?25l")
    assert b"0 instances running" in said
