"""The worker with a GPU scanner beside it: the device is the processor, by pocl."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnd import pow as worker
from tests.support.opencl import (
    beside,
    environment,
    faulty_driver,
    last_of,
    require_device,
)
from tests.support.processes import alive
from tests.support.waiting import eventually

BLOCK = worker.DEFAULT_BLOCK


@pytest.fixture(autouse=True)
def _device() -> None:
    require_device()


@contextlib.contextmanager
def started(alone: Path, *words: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-I", "-S", str(alone), *words]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    ) as process:
        yield process
        process.kill()


def run(alone: Path, *words: str, **more: str) -> list[dict[str, Any]]:
    with started(alone, *words, **more) as process:
        output, complaints = process.communicate(timeout=120)
    events = [json.loads(line) for line in output.splitlines()]
    assert events, complaints
    return events


def test_the_gpu_alone_finds_the_smallest_nonce_of_its_class(tmp_path: Path) -> None:
    alone = beside(tmp_path)
    words = ("--kernel", "opencl", "--witness-bits", "8")
    events = run(alone, *words, "--difficulty", "4", "--index", "2", "--of", "5")
    device, found = last_of(events, "device"), last_of(events, "found")
    assert events[0]["kernel"] == device["kernel"] == "opencl"
    assert device["rate"] > 0
    plain = worker.HashlibScanner(BLOCK, 4)
    assert found["nonce"] == plain.scan(2, 5, 10**6)
    search = worker.Search(BLOCK, 4, index=2, of=5)
    by_hashlib = worker.WitnessScanner(worker.HashlibScanner, search, 8, (0,))
    by_hashlib.scan(2, 5, plain.tested)
    shown = [nonce for event in events for nonce in event.get("witnesses", [])]
    assert [n for n in shown if n < found["cursor"]] == by_hashlib.witnesses


def test_the_gpu_alone_exhausts_a_class_and_counts_each_nonce_once(
    tmp_path: Path,
) -> None:
    words = ("--kernel", "opencl", "--difficulty", "9", "--nonces", "1000003")
    *_, last = run(beside(tmp_path), *words, "--index", "3", "--of", "7")
    assert (last["event"], last["tested"]) == ("exhausted", len(range(3, 1000003, 7)))


def test_cores_search_beside_the_gpu_and_a_stop_ends_both(tmp_path: Path) -> None:
    words = (
        "--difficulty",
        "12",
        "--nonces",
        "10**18".replace("10**18", "1" + 18 * "0"),
    )
    lines: list[dict[str, Any]] = []
    with started(beside(tmp_path), *words, "--progress", "0.05") as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(json.loads(line))
            kinds = [event["event"] for event in lines]
            # Some stretches of it are among those after the device has joined.
            if "device" in kinds and len(kinds) > kinds.index("device") + 5:
                process.send_signal(signal.SIGTERM)
    device, last = last_of(lines, "device"), lines[-1]
    assert device["kernel"] == f"opencl+{lines[0]['kernel']}"
    assert sum(event["event"] == "device" for event in lines) == 1
    assert last["event"] == "stopped"
    assert last["tested"] >= last["cursor"] > 0


SOURCE_FAULTS = {
    "misses golden nonces": (
        "index = (vec)(LANES * (uint)get_global_id(0)) + LANE_NUMBERS;",
        "return;",  # quick to compile
        "wrong answer for nonces from ",
    ),
    "cannot be compiled": (
        "vec nibbles, letters;",
        "vec nibbles letters;",
        "its compiler refuses the kernel: ",
    ),
}


@pytest.mark.parametrize("fault", SOURCE_FAULTS)
def test_a_broken_kernel_is_refused_and_the_cores_go_on(
    fault: str, tmp_path: Path
) -> None:
    old, new, reason = SOURCE_FAULTS[fault]
    alone = beside(tmp_path, (old, new))
    *_, failed = run(alone, "--difficulty", "2", "--kernel", "opencl")
    assert failed["event"] == "failed"
    assert failed["reason"].startswith(f"kernel opencl is refused: {reason}")


DRIVER_FAULTS = {
    "clGetDeviceIDs": ("return ((word)-1L)", "no device: 1 drivers, and no GPU"),
    "clCreateContext": ("abort()", "crashed (signal 6)"),
    "clBuildProgram": ("for (;;) pause()", "gave no answer within 2 s"),
}


@pytest.mark.parametrize("function", DRIVER_FAULTS)
def test_a_driver_that_fails_hangs_or_crashes_is_refused_while_the_cores_search(
    function: str, tmp_path: Path
) -> None:
    fault, reason = DRIVER_FAULTS[function]
    driver = faulty_driver(tmp_path, **{function: fault})
    # On a busy machine a driver that answers may take more than two seconds, too.
    patience = "2" if "pause" in fault else "120"
    words = ("--difficulty", "12", "--time-limit", "300", "--gpu-patience", patience)
    lines: list[dict[str, Any]] = []
    with started(beside(tmp_path), *words, **driver) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "device":
                process.send_signal(signal.SIGTERM)
    assert last_of(lines, "device")["refused"] == reason
    assert lines[-1]["event"] == "stopped"
    assert lines[-1]["tested"] > 0


# What a driver does at a call, and what is reported of it.
ENDINGS = {
    "return ((word)-5L)": "clEnqueueNDRangeKernel fails with status -5",
    "_exit(1)": "its process has died",
    "for (;;) pause()": "gave no answer for ",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_device_that_vanishes_in_mid_search_costs_no_nonce(
    ending: str, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    # One process meets the fault; the next one does not, and searches on.
    fault = f'if (unlink("{gone}") == 0) {ending}'
    driver = faulty_driver(tmp_path, clEnqueueNDRangeKernel=fault)
    # Of so few witnesses, all are shown, however fast the cores are.
    words = ("--difficulty", "9", "--witness-bits", "17", "--progress", "0.1")
    # On a busy machine a process that is well may be silent for a second, too.
    silence = "3" if "pause" in ending else "30"
    limit = ("--time-limit", "60", "--gpu-silence", silence)
    lines: list[dict[str, Any]] = []
    # `given`: nonces were given to children, at most, when it had vanished.
    vanishes, given = False, math.inf
    with started(beside(tmp_path), *words, *limit, **driver) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(json.loads(line))
            is_progress = lines[-1]["event"] == "progress"
            joined = [e for e in lines if "rate" in e and e["event"] == "device"]
            if joined and is_progress and not vanishes:
                gone.touch()
                vanishes = True
            if len(joined) > 1 and is_progress:
                given = min(given, lines[-1]["tested"])
                # The cursor passes what was taken back from the device: it was tested.
                if lines[-1]["cursor"] > given:
                    process.send_signal(signal.SIGTERM)
    (failure,) = [each["failed"] for each in lines if "failed" in each]
    assert failure.startswith(ENDINGS[ending])
    assert lines[-1]["event"] == "stopped"
    cursor = lines[-1]["cursor"]
    shown = [nonce for event in lines for nonce in event.get("witnesses", [])]
    search = worker.Search(BLOCK, 9)
    checker = worker.WitnessScanner(
        worker.choose_kernel("auto").make, search, 17, memoryview(array("i", [0]))
    )
    assert checker.scan(0, 1, cursor) is None
    assert [nonce for nonce in shown if nonce < cursor] == checker.witnesses


# The processor is listed twice, as if it were two devices.
TWICE = (
    'real("clGetDeviceIDs")(a, b, (word)1L, d, e, f, g, h, i, j);'
    "if (d == NULL) *(unsigned *)e = 2; else ((word *)d)[1] = *(word *)d;"
    "return (NULL)"
)


def test_a_gpu_that_is_refused_leaves_the_search_to_the_others(tmp_path: Path) -> None:
    first = f'if (open("{tmp_path}/first", O_CREAT | O_EXCL, 0600) >= 0) abort()'
    driver = faulty_driver(tmp_path, clGetDeviceIDs=TWICE, clBuildProgram=first)
    words = ("--kernel", "opencl", "--difficulty", "9", "--nonces", "100000")
    events = run(beside(tmp_path), *words, **driver)
    seen = {e["number"]: e for e in events if e["event"] == "device"}
    assert len(seen) == 2
    (refused,) = [each for each in seen.values() if "refused" in each]
    assert refused["refused"] == "crashed (signal 6)"
    assert (events[-1]["event"], events[-1]["tested"]) == ("exhausted", 100000)


def test_what_a_driver_prints_is_not_among_the_events(tmp_path: Path) -> None:
    noise = 'dprintf(1, "half a line")'
    driver = faulty_driver(tmp_path, clBuildProgram=noise, clCreateContext=noise)
    words = ("--kernel", "opencl", "--difficulty", "4")
    assert run(beside(tmp_path), *words, **driver)[-1]["event"] == "found"


def test_a_process_that_cannot_be_killed_delays_nothing(tmp_path: Path) -> None:
    """A driver can hold one in the system's kernel; here one that traces it does."""
    hold = tmp_path / "hold"
    hold.touch()
    fault = (
        "prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); if (fork() == 0) {"
        "ptrace(PTRACE_SEIZE, getppid(), 0, 0);"
        f'while (access("{hold}", F_OK) == 0) usleep(20000); _exit(0);'
        "} for (;;) pause()"
    )
    driver = faulty_driver(tmp_path, clBuildProgram=fault)
    words = ("--difficulty", "12", "--gpu-patience", "2", "--progress", "0.1")
    lines: list[dict[str, Any]] = []
    try:
        with started(beside(tmp_path), *words, **driver) as process:
            assert process.stdout
            for line in process.stdout:
                lines.append(json.loads(line))
                after = [e for e in lines if "number" in e]
                if after and lines[-1]["event"] == "progress":
                    process.send_signal(signal.SIGTERM)
                    break
                assert len(lines) < 1000, "it never goes on"
            process.wait(60)  # while the other one is still held
            assert process.returncode == worker.STATUS["stopped"]
    finally:
        hold.unlink()


def test_a_gpu_process_whose_driver_hangs_does_not_outlive_the_worker(
    tmp_path: Path,
) -> None:
    pid = tmp_path / "pid"
    fault = (
        f'dprintf(open("{pid}.new", O_CREAT | O_WRONLY, 0600), "%d", getpid());'
        f'rename("{pid}.new", "{pid}"); for (;;) pause()'
    )
    driver = faulty_driver(tmp_path, clBuildProgram=fault)
    with started(beside(tmp_path), "--difficulty", "12", **driver) as process:
        eventually(pid.exists)
        hanging = int(pid.read_text())
        assert alive(hanging)
        process.kill()
        eventually(lambda: not alive(hanging))
