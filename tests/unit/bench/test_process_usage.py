"""What processes take of this machine is measured, with real ones."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from cnd.bench import process_usage
from cnd.errors import HostError

needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells what ended children took"
)


@needs_linux
def test_a_child_is_followed_to_its_end() -> None:
    code = (
        "import time; block = b'x' * 50_000_000; end = time.process_time() + 0.2\n"
        "while time.process_time() < end: pass\n"
        "print('done')"
    )
    took = process_usage.follow([sys.executable, "-c", code], patience=30)
    assert took.output == "done\n"
    assert took.seconds > 0.2 <= took.processor
    assert took.memory > 50_000_000
    assert took.threads == 1


@needs_linux
def test_the_error_of_a_child_that_fails_has_its_last_line() -> None:
    code = "import sys; print('first', file=sys.stderr); sys.exit('no room')"
    with pytest.raises(HostError, match="status 1: no room"):
        process_usage.follow([sys.executable, "-c", code], patience=30)


@needs_linux
def test_a_child_that_does_not_end_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(HostError, match="not over in time"):
        process_usage.follow(
            [sys.executable, "-c", "import time; time.sleep(60)"], patience=0.3
        )
    assert time.monotonic() - began < 30


BURNT = 0.3  # seconds of processor
BURN = f"import time\nwhile time.process_time() < {BURNT}: pass"


# Measures a tree, and itself with it: it has no other children, as a test process has.
MEASURE = """
import os, signal, subprocess, sys
from cnd.bench.process_usage import tree_seconds

before = tree_seconds(os.getpid())
with subprocess.Popen(
    [sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, start_new_session=True
) as root:
    try:
        assert root.stdout.readline() == b"\\n"
        took = tree_seconds(root.pid)
        ours = tree_seconds(os.getpid()) - before
    finally:
        os.killpg(root.pid, signal.SIGKILL)
print(took, ours, tree_seconds(root.pid))
"""


@needs_linux
def test_a_tree_of_processes_takes_what_those_that_ended_and_those_that_live_took() -> (
    None
):
    """A process that has ended, one that lives, and their parent, which did nothing."""
    tree = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", {BURN!r}])
living = [sys.executable, "-c", {BURN!r} + "\\nprint(flush=True); time.sleep(60)"]
subprocess.Popen(living, stdout=sys.stdout)
time.sleep(60)
"""
    measured = subprocess.check_output(
        [sys.executable, "-c", MEASURE, tree], text=True, timeout=120
    )
    took, ours, gone = map(float, measured.split())
    assert 2 * BURNT * 0.9 < took < 3 * BURNT + 1
    assert ours > took * 0.9
    assert gone == 0
