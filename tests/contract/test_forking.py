"""The processes that fork for the tests are as few as they say, and end with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import alive
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
# Prints which process forked a command of its own, and waits.  The command lives until
# it is killed: the pipe that it writes to is full.
TEST_PROCESS = """
import contextlib, os, signal, sys
from pathlib import Path
from tests.support.forking import Forked
_, full = os.pipe()
os.set_blocking(full, False)
with contextlib.suppress(BlockingIOError):
    while True:
        os.write(full, bytes(4096))
os.set_blocking(full, True)
command = Forked(["cnd", "--version"], Path("/"), dict(os.environ), (full, full))
status = Path(f"/proc/{command.pid}/status").read_text()
os.kill(command.pid, signal.SIGKILL)
assert command.wait() == -signal.SIGKILL
print(*(x.split()[1] for x in status.splitlines() if x.startswith("PPid")), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tests fork on Linux only")
def test_the_processes_of_a_run_of_the_tests_share_a_server_that_ends_with_them(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "PYTEST_XDIST_TESTRUNUID": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TEST_PROCESS],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        first, second = (int(p.stdout.readline()) for p in processes if p.stdout)
        assert first == second
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    eventually(lambda: not alive(first))
