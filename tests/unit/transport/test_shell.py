"""The shell commands for a host, run by the shell of this machine."""

from __future__ import annotations

import select
import subprocess
from pathlib import Path

import pytest

from cnd.pow import GENERATION
from cnd.transport import shell

SECONDS = 20.0
EVENT = '{"event": "found", "nonce": 116}\n'


def followed(folder: Path, *position: int) -> str:
    """Return the first line that the command prints; then its session ends."""
    with subprocess.Popen(
        ["sh", "-c", shell.follow(str(folder), *position)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        line = process.stdout.readline() if ready else "nothing"
        process.stdin.close()
        return line


@pytest.mark.parametrize("pid", ["", "123456789\n"], ids=["cleared", "dead"])
def test_a_worker_that_ended_before_it_was_followed_is_heard_to_its_end(
    tmp_path: Path, pid: str
) -> None:
    """With few digits a search is over before the next command of the shell."""
    folder = tmp_path / "class-0"
    folder.mkdir()
    (folder / "worker.pid").write_text(pid)
    (folder / shell.EVENTS).write_text(EVENT)
    assert followed(folder) == EVENT
    (folder / shell.EVENTS).write_text(EVENT * 2)
    assert followed(folder, len(EVENT)) == EVENT
    (folder / GENERATION).write_text("1\n")
    assert followed(folder, 7, 0) == EVENT
    assert followed(folder, len(EVENT), 1) == EVENT
