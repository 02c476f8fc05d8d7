"""System logs that are too large, too slow, hostile, or in the way of something."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from cnd.local import Endpoint
from cnd.model import system_log
from tests.fault.truth import Victim
from tests.support.processes import ended
from tests.support.runs import Run, told
from tests.support.waiting import SOON, eventually

MB = 1 << 20
LINE = b"Nov 28 04:00:00 host kernel: a line of a log that is long, number %09d\n"


def fill(path: Path, size: int) -> None:
    """Write lines into a log until `size` bytes are in it."""
    count = size // len(LINE % 0) + 1
    with path.open("ab") as file:
        for first in range(0, count, 10_000):
            some = range(first, min(count, first + 10_000))
            file.write(b"".join(LINE % number for number in some))


def finished(terminal: Victim, size: int, *words: str) -> tuple[Path, dict[str, Any]]:
    """Have a run end whose instance has a log of `size` bytes."""
    before = set(terminal.runs())
    process = terminal.spawn(
        "start", "--d", "30", "--n", "1", "--t", "10", *words, "--json"
    )
    eventually(lambda: set(terminal.runs()) - before)
    (folder,) = set(terminal.runs()) - before
    eventually(lambda: told(folder, "worker.started"))
    (started,) = told(folder, "worker.started")
    hosts = terminal.state / "cnd" / "local" / "hosts"
    fill(hosts / started["host"] / "var/log/syslog", size)
    code, out, err = ended(process)
    assert code == 10, err
    return folder, json.loads(out)


def test_a_log_of_forty_megabytes_comes_whole_and_soon(terminal: Victim) -> None:
    folder, result = finished(terminal, 40 * MB)
    (pulled,) = told(folder, "log.pulled")
    assert "missing" not in pulled
    text = Path(pulled["path"]).read_bytes()
    assert len(text) > 40 * MB
    assert b"cnd-pow" in text[-2000:]
    assert result["seconds"]["logs"] < SOON


def test_a_log_that_is_too_large_is_its_newest_part_and_says_so(
    terminal: Victim,
) -> None:
    """The limit is lower where the fleet is large: see `system_log.most_of`."""
    folder, result = finished(terminal, 66 * MB)
    (pulled,) = told(folder, "log.pulled")
    assert pulled["missing"] > MB
    path = Path(pulled["path"])
    assert path.stat().st_size <= system_log.MOST + 1000
    with path.open("rb") as file:
        assert b"of the beginning of this log are missing here" in file.readline()
        assert file.readline().startswith(b"Nov 28")
        file.seek(-2000, os.SEEK_END)
        assert b"cnd-pow" in file.read()
    assert result["seconds"]["logs"] < SOON


def keepers_words(tree: Path) -> list[str]:
    """Return the words of the shell that waits until a host's watchdog is to begin."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_text(errors="replace").split("\0")
            ours = (entry / "cwd").resolve().is_relative_to(tree)
            if ours and "exec python3 -I -S watchdog.py" in " ".join(words):
                found = words
    return found


def test_an_orphan_would_send_its_own_log_and_none_of_the_machine(
    terminal: Victim, cloud: Endpoint
) -> None:
    """A host of the local cloud is no machine: it maps the paths in commands."""
    run = Run(terminal, "start", "--d", "30", "--n", "1", "--t", "600", "--json")
    tree = cloud.folder / "hosts" / run.searching(1)[0]
    words = eventually(lambda: keepers_words(tree))
    log = next(word for word in words if "log-bytes" in word)
    assert f"{tree}/var/log/syslog" in log
    assert "/var/log/" not in log.replace(f"{tree}/var/log/", "")
    done = subprocess.run(["sh", "-c", log], capture_output=True, text=True, timeout=60)
    assert "cnd-pow: started" in done.stdout
    run.interrupted()
