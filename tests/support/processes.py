"""Processes of this machine, as /proc tells of them, and interpreters to start."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forking import Process

MINORS = range(6, 15)  # of Python 3: those that the worker is to run on


def process_state(pid: int) -> str:
    """Return the state of a process as ps(1) writes it; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    return process_state(pid) not in ("", "Z")


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def family(pid: int) -> list[int]:
    """Return all descendants of a process."""
    direct = children(pid)
    return direct + [below for child in direct for below in family(child)]


def ended(process: Process, *, within: float = 120.0) -> tuple[int, str, str]:
    """Wait for a spawned program; return its status, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.wait(), out, err


@functools.cache
def required_python(minor: int) -> str:
    """Return an interpreter of Python 3.`minor`; without one, the test is skipped."""
    found = python(minor)
    if found is None:
        pytest.skip(f"no Python 3.{minor} here")
    return found


def python(minor: int) -> str | None:
    """Return a real interpreter (no shim that fails to start) of Python 3.`minor`."""
    if sys.version_info[:2] == (3, minor):
        return sys.executable
    extra = os.environ.get("CND_TEST_PYTHONS", "").split(os.pathsep)
    for folder in [*extra, *os.environ.get("PATH", "").split(os.pathsep)]:
        path = shutil.which(f"python3.{minor}", path=folder) if folder else None
        if path and subprocess.run([path, "-V"], capture_output=True).returncode == 0:
            return path
    return None
