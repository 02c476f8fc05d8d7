"""The programs of an instance are written in the language of Python 3.6.

If old interpreters are installed, tests run on them (test_worker.py, test_watchdog.py,
others).  This test needs none of them; it checks language and standard library.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.terminal import BIN, ROOT

OLDEST = "3.6-"  # or newer
ON_INSTANCES = [
    ROOT / "cnd" / "pow.py",
    *sorted((ROOT / "cnd" / "on_instance").glob("*.py")),
    *sorted((ROOT / "examples").glob("*.py")),
]


def vermin(*files: Path) -> subprocess.CompletedProcess[str]:
    """Check the version of Python that files need."""
    words = ("--no-tips", "--violations", f"--target={OLDEST}")
    return subprocess.run(
        [BIN / "vermin", *words, *files], capture_output=True, text=True, timeout=60
    )


def test_what_runs_on_instances_needs_no_newer_python() -> None:
    done = vermin(*ON_INSTANCES)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "text", ["import dataclasses", "if (a := 1): pass", "import time; time.time_ns()"]
)
def test_what_is_newer_is_noticed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "new.py"
    file.write_text(text)
    assert vermin(file).returncode == 1
