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
    driver = faulty_driver(tmp_path, function, fault)
    words = ("--difficulty", "12", "--time-limit", "60", "--gpu-patience", "2")
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


@pytest.mark.parametrize("ending", ["return ((word)-5L)", "_exit(1)"])
def test_a_device_that_vanishes_in_mid_search_costs_no_nonce(
    ending: str, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    fault = f'if (access("{gone}", F_OK) == 0) {ending}'
    driver = faulty_driver(tmp_path, "clEnqueueNDRangeKernel", fault)
    words = ("--difficulty", "9", "--witness-bits", "12", "--progress", "0.1")
    lines: list[dict[str, Any]] = []
    given = math.inf  # nonces were given to children at most when it had vanished
    with started(beside(tmp_path), *words, **driver) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(json.loads(line))
            joined = [e for e in lines if e["event"] == "device" and "rate" in e]
            refused = [e for e in lines if "number" in e and "refused" in e]
            if joined and lines[-1]["event"] == "progress":
                gone.touch()
            if refused and lines[-1]["event"] == "progress":
                given = min(given, lines[-1]["tested"])
                # The cursor passes what was taken back from the device: it was tested.
                if lines[-1]["cursor"] > given:
                    process.send_signal(signal.SIGTERM)
    assert lines[-1]["event"] == "stopped"
    cursor = lines[-1]["cursor"]
    shown = [nonce for event in lines for nonce in event.get("witnesses", [])]
    search = worker.Search(BLOCK, 9)
    checker = worker.WitnessScanner(
        worker.choose_kernel("auto").make, search, 12, memoryview(array("i", [0]))
    )
    assert checker.scan(0, 1, cursor) is None
    assert [nonce for nonce in shown if nonce < cursor] == checker.witnesses
