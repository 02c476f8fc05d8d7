"""systemctl and its like on a host: a request to the host's init, and its reply."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import cnd.local.host

CONTROL = Path(cnd.local.host.__file__).with_name("shims") / "control"
SECONDS = 60.0  # no wait is longer
# Where it finds its pipe on Linux; and a system that has no such place.
PLACES = ["/proc/self/fd/3", "/nowhere/fd/3"]


@pytest.fixture(params=["sh", "bash"])
def shell(request: pytest.FixtureRequest) -> str:
    found = shutil.which(str(request.param))
    if found is None:
        pytest.skip(f"needs {request.param}")
    return found


@pytest.mark.parametrize("place", PLACES)
def test_a_program_prints_what_init_replies_and_leaves_nothing_behind(
    tmp_path: Path, shell: str, place: str
) -> None:
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(CONTROL.read_text().replace("/proc/self/fd/3", place))
    run = tmp_path / "run" / "cnd"
    run.mkdir(parents=True)
    os.mkfifo(run / "control")
    control = os.open(run / "control", os.O_RDWR)
    process = subprocess.Popen(
        [shell, program, "is-active", "two words"], stdout=subprocess.PIPE, text=True
    )
    try:
        reply_to, *request = os.read(control, 4096).decode().rstrip("\n").split("\t")
        assert request == ["systemctl", "is-active", "two words"]
        reply = os.open(reply_to, os.O_WRONLY | os.O_NONBLOCK)
        os.write(reply, b"3\n-inactive\n-.\n-  as it is \\n\n.\n")
        out, _ = process.communicate(timeout=SECONDS)
        os.close(reply)
    finally:
        process.kill()
        os.close(control)
    assert (process.returncode, out) == (3, "inactive\n.\n  as it is \\n\n")
    assert [path.name for path in run.iterdir()] == ["control"]
