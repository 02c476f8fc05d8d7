"""The worker under faults: frozen processes, full disks, locales, repeated starts."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cnd import pow as worker
from tests.support.processes import MINORS, alive, children, required_python
from tests.support.waiting import SOON, eventually
from tests.support.worker import events

Spawn = Callable[..., "subprocess.Popen[str]"]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start the worker, copied alone, in a process group of its own."""
    copy = shutil.copy(worker.__file__, tmp_path / "pow.py")
    processes: list[subprocess.Popen[str]] = []

    def spawn(
        *words: str | bytes, interpreter: str = sys.executable, **options: Any
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [interpreter, "-I", "-S", copy, *words],
            **{"stdout": subprocess.PIPE, **options},
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield spawn
    for process in processes:
        process.kill()
        process.communicate()
    pid_file = tmp_path / "here" / "worker.pid"
    if pid_file.exists() and (pid := pid_file.read_text().strip()):
        os.kill(int(pid), signal.SIGKILL)


def forked(process: subprocess.Popen[str], processes: int) -> list[int]:
    """Wait until a worker searches on so many processes; return these."""
    assert process.stdout is not None
    process.stdout.readline()
    eventually(lambda: len(children(process.pid)) == processes, every=0.01)
    return children(process.pid)


def outcome(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, events(out)[-1] if out else {}, err


@LINUX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_is_one_request_to_stop(
    spawn: Spawn, number: signal.Signals
) -> None:
    search = ("--difficulty", "30", "--processes", "3", "--progress", "0.1")
    process = spawn(*search, "--no-syslog")
    family = forked(process, 3)
    assert process.stdout is not None
    while not json.loads(process.stdout.readline()).get("tested"):
        pass
    os.killpg(process.pid, number)
    status, last, err = outcome(process)
    assert (status, last["event"], err) == (12, "stopped", "")
    assert last["tested"] > 0
    assert not any(alive(pid) for pid in family)


@LINUX
def test_the_outcome_is_logged_after_a_signal_to_the_whole_group(
    spawn: Spawn, tmp_path: Path
) -> None:
    logger = tmp_path / "bin" / "logger"
    logger.parent.mkdir()
    logger.write_text(f"#!/bin/sh\nexec cat >{tmp_path}/log\n")
    logger.chmod(0o755)
    path = f"{logger.parent}:/usr/bin:/bin"
    process = spawn("--difficulty", "30", "--processes", "1", env={"PATH": path})
    forked(process, 2)  # the logger is the other one
    eventually((tmp_path / "log").exists)
    os.killpg(process.pid, signal.SIGTERM)
    assert outcome(process)[0] == 12
    assert (tmp_path / "log").read_text().splitlines()[-1].startswith("stopped ")


@LINUX
def test_a_frozen_process_does_not_hold_up_the_end(spawn: Spawn) -> None:
    process = spawn("--difficulty", "30", "--processes", "2", "--no-syslog")
    family = forked(process, 2)
    os.kill(family[0], signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    status, last, _ = outcome(process)
    assert (status, last["event"]) == (12, "stopped")
    assert not any(alive(pid) for pid in family)


@LINUX
def test_a_frozen_process_does_not_make_an_answer_wrong(spawn: Spawn) -> None:
    """It may have the smallest golden nonce, so a greater one must not be reported."""
    words = ("--difficulty", "6", "--start", "3600000", "--time-limit", "1")
    process = spawn(*words, "--processes", "2", "--no-syslog")
    os.kill(forked(process, 2)[0], signal.SIGSTOP)
    status, last, _ = outcome(process)
    if status == 0:  # it had finished before
        assert last["nonce"] == 3730945
    else:
        assert (status, last["event"]) == (10, "timeout")
        assert last["cursor"] <= 3730945


@pytest.mark.parametrize(("descriptors", "status"), [(16, 11), (8, 1)])
def test_where_no_more_processes_can_start_those_that_run_do_the_work(
    spawn: Spawn, descriptors: int, status: int
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    words = ("--difficulty", "20", "--nonces", "50000", "--processes", "64")
    got, last, _ = outcome(spawn(*words, "--no-syslog", preexec_fn=limit))
    assert got == status
    if status == 11:
        assert (last["event"], last["tested"]) == ("exhausted", 50000)
    else:
        assert last["event"] == "failed"
        assert last["reason"].startswith("cannot start a process: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_worker_that_cannot_write_its_events_ends_with_one_line(spawn: Spawn) -> None:
    with open("/dev/full", "w") as full:
        process = spawn("--difficulty", "30", stdout=full)
        status, _, err = outcome(process)
    assert status == 1
    assert err.startswith("pow.py: cannot go on: ")
    assert err.count("\n") == 1


def test_a_cursor_past_the_end_leaves_nothing_to_do(spawn: Spawn) -> None:
    words = ("--difficulty", "0", "--nonces", "10", "--of", "4", "--start", "12")
    began = time.monotonic()
    status, last, _ = outcome(spawn(*words, "--progress", "600"))
    assert (status, last["tested"], last["cursor"]) == (11, 0, 12)
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("minor", MINORS)
def test_a_block_is_utf8_in_every_locale(spawn: Spawn, minor: int) -> None:
    interpreter = required_python(minor)
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
    }
    words = ("--difficulty", "2", "--block", "Größe ∑ 証明".encode())
    process = spawn(*words, interpreter=interpreter, env=environment)
    status, last, err = outcome(process)
    assert (status, last["nonce"], err) == (0, 279, "")


def test_a_block_that_is_no_utf8_is_refused(spawn: Spawn) -> None:
    status, _, err = outcome(spawn("--difficulty", "2", "--block", b"\xff\xfe"))
    assert status == 2
    assert err.startswith("pow.py: block is not text in UTF-8: ")
    assert err.count("\n") == 1


# --- detached


def detach(spawn: Spawn, *words: str) -> tuple[int, str, str]:
    process = spawn("--difficulty", "30", "--detach", "here", "--no-syslog", *words)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_of_many_starts_in_one_folder_one_searches(
    spawn: Spawn, tmp_path: Path
) -> None:
    words = ("--difficulty", "30", "--detach", "here", "--no-syslog")
    starts = [spawn(*words) for _ in range(5)]
    said = [start.communicate(timeout=60) for start in starts]
    assert sorted(s.returncode for s in starts) == [0, 2, 2, 2, 2]
    assert all((out + err).count("\n") == 1 for out, err in said)
    (pid,) = (json.loads(out)["pid"] for out, _ in said if out)
    assert pid == int((tmp_path / "here" / "worker.pid").read_text())
    lines = (tmp_path / "here" / "events.jsonl").read_text()
    assert lines.count('"started"') == 1


@LINUX
def test_a_detached_worker_survives_its_session_and_clears_its_pid(
    spawn: Spawn, tmp_path: Path
) -> None:
    status, out, err = detach(spawn)
    assert (status, err) == (0, "")
    pid = json.loads(out)["pid"]
    assert os.getsid(pid) not in (pid, os.getsid(0))
    os.kill(pid, signal.SIGHUP)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not alive(pid))
    last = events((tmp_path / "here" / "events.jsonl").read_text())[-1]
    assert last["event"] == "stopped"  # the hangup had not ended it
    assert (tmp_path / "here" / "worker.pid").read_text() == ""


@LINUX
@pytest.mark.parametrize("by_job", [False, True])
def test_a_detached_worker_prints_its_events_until_its_session_is_gone(
    spawn: Spawn, tmp_path: Path, by_job: bool
) -> None:
    words = ["--difficulty", "30", "--no-syslog", "--progress", "0.02"]
    if by_job:
        (tmp_path / "job").write_text('{"difficulty": 30, "progress": 0.02}')
        words = ["--job", "job"]
    written = tmp_path / "here" / "events.jsonl"
    written.parent.mkdir()
    written.write_text('{"event": "from another program"}')  # it is sent, too
    process = spawn(*words, "--detach", "here", "--echo")
    assert process.stdout is not None
    introduction, *printed = [process.stdout.readline() for _ in range(6)]
    pid = json.loads(introduction)["pid"]
    assert process.wait(60) == 0  # the session may go on without the worker
    before = written.read_text()
    assert before.startswith("".join(printed))

    process.stdout.close()

    eventually(lambda: written.stat().st_size > 2 * len(before))
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: '"stopped"' in written.read_text())
    kinds = [event["event"] for event in events(written.read_text())]
    assert kinds[:2] == ["from another program", "started"]
    assert {*kinds[2:-1]} == {"progress"}
    assert kinds[-1] == "stopped"


@LINUX
def test_a_session_that_never_reads_does_not_slow_the_search(
    spawn: Spawn, tmp_path: Path
) -> None:
    """It gets the beginning of the events, and the file gets them all."""
    words = ("--difficulty", "30", "--no-syslog", "--progress", "0.01")
    process = spawn("--detach", "here", "--echo", *words)
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 8192)
    assert process.wait(60) == 0
    pid = int((tmp_path / "here" / "worker.pid").read_text())
    written = tmp_path / "here" / "events.jsonl"
    eventually(lambda: written.stat().st_size > 4 * 8192)

    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not alive(pid))
    assert events(written.read_text())[-1]["event"] == "stopped"
    introduction, printed = process.stdout.readline(), process.stdout.read()
    assert json.loads(introduction) == {"event": "detached", "pid": pid}
    assert written.read_text().startswith(printed)
    assert len(printed) > 1000


@LINUX
def test_after_a_killed_worker_another_may_start_in_its_folder(
    spawn: Spawn, tmp_path: Path
) -> None:
    pid = json.loads(detach(spawn)[1])["pid"]
    family = children(pid)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(alive(p) for p in [pid, *family]))
    status, out, err = detach(spawn, "--time-limit", "0.1")
    assert (status, err) == (0, "")
    eventually(lambda: not alive(json.loads(out)["pid"]))
    kinds = [
        e["event"] for e in events((tmp_path / "here" / "events.jsonl").read_text())
    ]
    assert (kinds.count("started"), kinds[-1]) == (2, "timeout")


def test_a_folder_that_cannot_be_used_is_refused_in_one_line(
    spawn: Spawn, tmp_path: Path
) -> None:
    (tmp_path / "here").write_text("a file")
    status, out, err = detach(spawn)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "here" in err
    (tmp_path / "here").unlink()
    (tmp_path / "here" / "events.jsonl").mkdir(parents=True)
    status, out, err = detach(spawn)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "events.jsonl" in err
