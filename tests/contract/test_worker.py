"""The worker as a program of its own: copied alone, on every installed Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cnd import pow as worker
from tests.support.processes import MINORS, alive, children, required_python
from tests.support.waiting import SOON, eventually
from tests.support.worker import events


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The worker, copied into an otherwise empty folder."""
    return Path(shutil.copy(worker.__file__, tmp_path / "pow.py"))


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(alone: Path) -> Run:
    def run(
        *words: str, interpreter: str = sys.executable, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [interpreter, "-I", "-S", alone, *words],
            capture_output=True,
            text=True,
            cwd=alone.parent,
            timeout=60,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environment},
        )

    return run


@pytest.fixture
def spawn(alone: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []

    def spawn(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", alone, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=alone.parent,
        )
        processes.append(process)
        return process

    yield spawn
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("minor", MINORS)
def test_it_runs_on_every_python(minor: int, run: Run) -> None:
    interpreter = required_python(minor)
    done = run(
        "--difficulty", "2", "--index", "4", "--of", "8", interpreter=interpreter
    )
    first, *_, last = events(done.stdout)
    assert first["event"] == "started"
    assert first["python"].startswith(f"3.{minor}.")
    assert (last["event"], last["nonce"]) == ("found", 116)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("processes", ["1", "2", "3", "7"])
def test_the_answer_does_not_depend_on_the_number_of_processes(
    run: Run, processes: str
) -> None:
    words = ("--difficulty", "4", "--processes", processes)
    last = events(run(*words).stdout)[-1]
    assert last["nonce"] == 46697
    assert last["hash"] == worker.digest(worker.DEFAULT_BLOCK, 46697)
    assert last["tested"] >= 46698


@pytest.mark.parametrize("processes", ["1", "3"])
def test_an_exhausted_class_is_tested_exactly_once(run: Run, processes: str) -> None:
    words = ("--difficulty", "20", "--nonces", "100001", "--index", "1", "--of", "3")
    done = run(*words, "--processes", processes)
    last = events(done.stdout)[-1]
    assert (done.returncode, last["event"]) == (11, "exhausted")
    assert (last["tested"], last["cursor"]) == (33334, 100003)


def test_the_very_last_nonces_of_the_largest_space_are_tested(run: Run) -> None:
    start = 2**64 - 1000
    words = ("--difficulty", "30", "--nonces", str(2**64), "--start", str(start))
    last = events(run(*words).stdout)[-1]
    assert (last["event"], last["tested"], last["cursor"]) == ("exhausted", 1000, 2**64)


def test_a_search_goes_on_from_a_cursor(run: Run) -> None:
    words = ("--difficulty", "2", "--index", "4", "--of", "8", "--start", "124")
    last = events(run(*words).stdout)[-1]
    assert last["nonce"] > 116
    assert last["nonce"] % 8 == 4


def test_the_time_limit_is_kept_and_progress_is_reported(run: Run) -> None:
    words = ("--difficulty", "30", "--time-limit", "2.5", "--progress", "0.25")
    began = time.monotonic()
    done = run(*words)
    took = time.monotonic() - began
    printed = events(done.stdout)
    assert (done.returncode, printed[-1]["event"]) == (10, "timeout")
    progress = [e for e in printed if e["event"] == "progress"]
    assert len(progress) >= 4
    cursors = [e["cursor"] for e in printed[1:]]
    assert cursors == sorted(cursors)
    assert all(e["cursor"] <= e["tested"] for e in progress)
    assert 2.5 <= took < SOON


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_the_search_at_once(
    spawn: Callable[..., subprocess.Popen[str]],
    number: signal.Signals,
    record_property: Callable[[str, object], None],
) -> None:
    process = spawn("--difficulty", "30")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)  # until stretches have their full length
    began = time.monotonic()
    process.send_signal(number)
    last = json.loads(process.stdout.readline())
    took = time.monotonic() - began
    record_property("stop_seconds", took)
    assert last["event"] == "stopped"
    assert process.wait(timeout=60) == 12
    assert took < SOON  # the kernels' own bound: contract/kernel/test_worker.py


def test_a_killed_process_is_replaced_and_nothing_is_lost(
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    words = ("--difficulty", "20", "--nonces", "400000", "--processes", "2")
    process = spawn(*words, "--no-syslog")
    assert process.stdout is not None
    process.stdout.readline()
    eventually(lambda: len(children(process.pid)) == 2)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    last = events(out)[-1]
    assert (last["event"], last["tested"], err) == ("exhausted", 400000, "")


def test_processes_that_keep_dying_are_a_failure_not_an_exhausted_space(
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    process = spawn("--difficulty", "30", "--processes", "1", "--no-syslog")
    assert process.stdout is not None
    process.stdout.readline()

    def dead() -> bool:
        for child in children(process.pid):
            os.kill(child, signal.SIGKILL)
        return process.poll() is not None

    eventually(dead)
    last = events(process.stdout.read())[-1]
    assert (last["event"], process.returncode) == ("failed", 1)


def test_no_process_survives_its_parent(
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    process = spawn("--difficulty", "30", "--processes", "3")
    assert process.stdout is not None
    process.stdout.readline()
    eventually(lambda: len(children(process.pid)) >= 3)
    family = children(process.pid)
    process.kill()
    eventually(lambda: not any(alive(pid) for pid in family))


def test_a_reader_that_goes_away_ends_the_search(
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    process = spawn("--difficulty", "30", "--progress", "0.05")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stdout = None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "difficulty is missing"),
        (("--difficulty", "x"), "difficulty must be a whole number, not 'x'"),
        (("--difficulty", "65"), "difficulty must be 0 to 64, not 65"),
        (("--difficulty", "2", "--time-limit", "0"), "time limit must be"),
        (("--difficulty", "2", "--time-limit", "nan"), "time limit must be"),
        (("--difficulty", "2", "--processes", "-1"), "processes must be 1 to"),
        (("--difficulty", "2", "--nonces", "0"), "nonces must be"),
        (("--difficulty", "2", "--index", "8", "--of", "8"), "index must be 0 to 7"),
        (("--difficulty", "2", "--kernel", "magic"), "no such kernel here: 'magic'"),
        (("--job", "/no/such/file"), "cannot read the job file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run: Run, words: tuple[str, ...], message: str
) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_job_file_has_the_same_effect_as_options(run: Run, alone: Path) -> None:
    job = {"block": "ü '\"$%d\n", "difficulty": 1, "index": 1, "of": 2, "later": True}
    (alone.parent / "job.json").write_text(json.dumps(job))
    first, *_, last = events(run("--job", "job.json", "--run", "r1").stdout)
    assert (first["index"], first["of"], first["run"]) == (1, 2, "r1")
    assert last["hash"] == worker.digest(job["block"], last["nonce"])  # type: ignore[arg-type]


def test_a_detached_worker_outlives_its_starter_and_is_alone(
    run: Run, alone: Path
) -> None:
    words = ("--difficulty", "30", "--detach", "here")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    (said,) = events(done.stdout)
    folder = alone.parent / "here"
    assert said == {
        "event": "detached",
        "pid": int((folder / "worker.pid").read_text()),
    }
    assert events((folder / "events.jsonl").read_text())[0]["event"] == "started"

    again = run(*words)
    assert again.returncode == 2
    assert "a worker runs in this folder already" in again.stderr

    os.kill(said["pid"], signal.SIGTERM)
    eventually(lambda: not alive(said["pid"]))
    assert events((folder / "events.jsonl").read_text())[-1]["event"] == "stopped"

    (folder / "events.jsonl").open("a").write('{"half')
    assert run("--difficulty", "1", "--detach", "here").returncode == 0
    text = folder / "events.jsonl"
    eventually(lambda: '"found"' in text.read_text())
    lines = text.read_text().splitlines()
    assert lines[-3] == '{"half'
    assert json.loads(lines[-1])["nonce"] == 7


def test_a_bad_job_is_refused_before_it_is_detached(run: Run, alone: Path) -> None:
    done = run("--difficulty", "99", "--detach", "here")
    assert (done.returncode, done.stdout) == (2, "")
    assert not (alone.parent / "here").exists()


def test_start_progress_and_outcome_go_to_the_syslog(run: Run, alone: Path) -> None:
    bin_folder = alone.parent / "bin"
    bin_folder.mkdir()
    logger = bin_folder / "logger"
    logger.write_text(
        f'#!/bin/sh\necho "$@" >{alone.parent}/a\ncat >{alone.parent}/log\n'
    )
    logger.chmod(0o755)
    run("--difficulty", "2", PATH=f"{bin_folder}:/usr/bin:/bin")
    assert (alone.parent / "a").read_text() == "-t cnd-pow\n"
    lines = (alone.parent / "log").read_text().splitlines()
    assert lines[0].startswith("started ")
    assert lines[-1].startswith("found ")
    assert "nonce=116" in lines[-1]


@pytest.mark.parametrize("script", [None, "exit 1", "sleep 600", "exec sleep 600 <&-"])
def test_a_broken_logger_never_hurts_the_search(
    run: Run, alone: Path, script: str | None
) -> None:
    bin_folder = alone.parent / "bin"
    bin_folder.mkdir()
    if script:
        (bin_folder / "logger").write_text(f"#!/bin/sh\n{script}\n")
        (bin_folder / "logger").chmod(0o755)
        path = f"{bin_folder}:/usr/bin:/bin"
    else:
        path = str(bin_folder)
    began = time.monotonic()
    done = run("--difficulty", "2", PATH=path)
    assert events(done.stdout)[-1]["nonce"] == 116
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize(
    "words",
    [
        ("--difficulty", "1"),
        ("--difficulty", "64", "--nonces", "1000"),
        ("--difficulty", "64", "--time-limit", "0.3", "--progress", "0.05"),
    ],
)
def test_the_documentation_lists_every_field_of_a_worker(
    run: Run, words: tuple[str, ...]
) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    rows = re.findall(r"^\| `worker\.([a-z]+)` \| (.*?) \|", docs, re.M)
    told = {kind: set(re.findall(r"\w+", cell)) for kind, cell in rows}
    done = run(*words, "--run", "r", "--processes", "1", "--no-syslog")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said
    for event in said:
        assert event["run"] == "r"
        assert set(event) - {"event", "time", "run"} <= told[event["event"]]


def test_the_events_of_a_detached_worker_do_not_grow_without_end(
    run: Run, alone: Path
) -> None:
    job = {"difficulty": 30, "progress": 0.01, "witness_bits": 12, "most_events": 4000}
    (alone.parent / "job.json").write_text(json.dumps({**job, "syslog": False}))
    (said,) = events(run("--job", "job.json", "--detach", "here").stdout)
    path = alone.parent / "here" / "events.jsonl"
    rotated = alone.parent / "here" / worker.GENERATION

    eventually(lambda: rotated.exists() and int(rotated.read_text() or 0) >= 3)
    os.kill(said["pid"], signal.SIGTERM)
    eventually(lambda: not alive(said["pid"]))

    first, *_, last = events(path.read_text())
    assert first["rotated"] >= 3
    assert last["event"] == "stopped"
    shown = [nonce for each in events(path.read_text()) for nonce in each["witnesses"]]
    assert shown == sorted(set(shown))
    assert path.stat().st_size < 4000 + 48_000
