"""Users as they are: without a name, and told what was wrong in a line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.support.terminal import BIN, Terminal

START = ("start", "--d", "2", "--n", "1", "--t", "5")


def refused(done: subprocess.CompletedProcess[str], status: int = 2) -> str:
    """Return the message of a command that ended with one line, and its way out."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def nameless(terminal: Terminal, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without an entry in the password database."""
    return _as_nameless(terminal, [str(BIN / "cnd"), *words])


# Forks for each command: Python starts, and imports what they need, once.
COMMANDS = """
import json, os, sys
from cnd import tasks
ended = []
for words in json.loads(sys.argv[1]):
    files = [os.memfd_create(name) for name in ("out", "err")]
    if (pid := os.fork()) == 0:
        for number, file in enumerate(files, 1):
            os.dup2(file, number)
        sys.argv = [sys.argv[2], *words]
        tasks.main()
        sys.exit()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    ended.append([status, *(os.pread(file, 1 << 20, 0).decode() for file in files)])
print(json.dumps(ended))
"""


def nameless_all(
    terminal: Terminal, commands: Sequence[Sequence[str]]
) -> list[subprocess.CompletedProcess[str]]:
    """Run some commands as such a user, one after the other."""
    words = ["-c", COMMANDS, json.dumps(commands), str(BIN / "cnd")]
    done = _as_nameless(terminal, [sys.executable, *words])
    assert done.returncode == 0, done.stderr
    ended = zip(commands, json.loads(done.stdout), strict=True)
    return [subprocess.CompletedProcess(command, *end) for command, end in ended]


def _as_nameless(
    terminal: Terminal, command: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    if os.getuid() or not (setpriv := shutil.which("setpriv")):
        pytest.skip("only root can be another user")
    capabilities = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        terminal.environment.pop(name, None)
    who = ["--reuid=54321", "--regid=54321", "--clear-groups", *capabilities]
    return subprocess.run(
        [setpriv, *who, *command],
        cwd="/",
        env=terminal.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
