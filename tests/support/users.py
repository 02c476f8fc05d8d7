"""Users as they are: without a name, and told what was wrong in a line."""

from __future__ import annotations

import os
import shutil
import subprocess

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
    if os.getuid() or not (setpriv := shutil.which("setpriv")):
        pytest.skip("only root can be another user")
    capabilities = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        terminal.environment.pop(name, None)
    who = ["--reuid=54321", "--regid=54321", "--clear-groups", *capabilities]
    return subprocess.run(
        [setpriv, *who, BIN / "cnd", *words],
        cwd="/",
        env=terminal.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
