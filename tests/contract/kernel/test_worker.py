"""The worker with a native library beside it: valid, broken, truncated, foreign."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cnd import kernel
from cnd import pow as worker
from cnd.kernel import build
from tests.kernel.programs import MACHINE, c_compiler, current_library

pytestmark = pytest.mark.skipif(
    MACHINE not in build.UNITS, reason="there are no kernels for this architecture"
)
ANSWER = 116  # of the default block at difficulty 2


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of these sources, from the wheel or built here."""
    shipped = current_library()
    if shipped:
        return shipped
    return built(tmp_path_factory.mktemp("library"))


def built(folder: Path, sources: Path = build.FOLDER, *extra: str) -> Path:
    compiler = c_compiler()
    if compiler is None:
        pytest.skip("needs a library of these sources, or a C compiler")
    target = folder / worker.LIBRARY
    build.build(
        MACHINE, build.Compiler((compiler,)), target, extra=extra, folder=sources
    )
    return target


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The worker, copied into a folder of its own."""
    return Path(shutil.copy(worker.__file__, tmp_path / "pow.py"))


def run(
    alone: Path, *words: str, status: int = 0, interpreter: str = sys.executable
) -> list[dict[str, Any]]:
    done = subprocess.run(
        [interpreter, "-I", "-S", alone, "--no-syslog", "--difficulty", "2", *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    events: list[dict[str, Any]] = [
        json.loads(line) for line in done.stdout.splitlines()
    ]
    return events or [{"complaint": done.stderr}]


def test_a_library_beside_the_worker_serves(alone: Path, library: Path) -> None:
    shutil.copy(library, alone.parent / worker.LIBRARY)
    started, *_, found = run(alone)
    assert started["kernel"] not in ("hashlib", "scalar")
    assert found["nonce"] == ANSWER


def test_without_a_library_hashlib_serves(alone: Path) -> None:
    started, *_, found = run(alone)
    assert started["kernel"] == "hashlib"
    assert started["refused"] == {worker.LIBRARY: "is not here"}
    assert found["nonce"] == ANSWER


def test_a_kernel_can_be_forced_and_only_one_that_is_there(
    alone: Path, library: Path
) -> None:
    shutil.copy(library, alone.parent / worker.LIBRARY)
    for name in ("portable", "scalar", "hashlib"):
        started, *_, found = run(alone, "--kernel", name)
        assert (started["kernel"], found["nonce"]) == (name, ANSWER)
    (event,) = run(alone, "--kernel", "magic", status=2)
    assert "no such kernel here: 'magic'; there is hashlib, " in event["complaint"]


def test_the_slower_a_worker_is_held_the_less_it_takes_to_choose_a_kernel(
    alone: Path, library: Path
) -> None:
    """At 20,000 nonces/s any of the library's kernels serves: no more are tested."""
    kernels = worker.list_kernels(worker.load_library(str(library)))
    here = next(number for number, (_, can) in enumerate(kernels) if can)
    first = kernels[here][0]
    lacked = {name: "this processor lacks it" for name, _ in kernels[:here]}
    started, *_, found = run(alone, "--rate", "20000")
    assert (started["kernel"], found["nonce"]) == ("hashlib", ANSWER)  # it is alone
    shutil.copy(library, alone.parent / worker.LIBRARY)
    for rate, name, refused in (("20000", first, lacked), ("5000", "hashlib", {})):
        started, *_, found = run(alone, "--rate", rate)
        assert (started["kernel"], found["nonce"]) == (name, ANSWER)
        assert started["refused"] == refused


def test_a_truncated_library_is_refused(alone: Path, library: Path) -> None:
    whole = library.read_bytes()
    for length in (0, 100, 5000, len(whole) // 2):
        (alone.parent / worker.LIBRARY).write_bytes(whole[:length])
        started, *_, found = run(alone)
        assert started["kernel"] == "hashlib"
        assert list(started["refused"]) == [worker.LIBRARY]
        assert found["nonce"] == ANSWER
    (event,) = run(alone, "--kernel", "portable", status=2)
    assert f"{worker.LIBRARY} " in event["complaint"]


def test_a_foreign_library_is_refused(alone: Path) -> None:
    other = kernel.library("aarch64" if MACHINE == "x86_64" else "x86_64")
    if other is None:
        pytest.skip("needs the library of the other architecture")
    shutil.copy(other, alone.parent / worker.LIBRARY)
    started, *_, found = run(alone)
    assert started["kernel"] == "hashlib"
    assert started["refused"][worker.LIBRARY].startswith("cannot be loaded: ")
    assert found["nonce"] == ANSWER


def test_a_library_of_something_else_is_refused(alone: Path, tmp_path: Path) -> None:
    compiler = c_compiler()
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = tmp_path / "other.c"
    source.write_text("int other(void) { return 1; }\n")
    target = alone.parent / worker.LIBRARY
    subprocess.run([compiler, "-shared", "-o", target, source], check=True)
    started, *_, found = run(alone)
    assert "cnd_scan" in started["refused"][worker.LIBRARY]
    assert found["nonce"] == ANSWER


BREAKS = {
    "misses golden nonces": (
        "candidates = zeros(hash[0], stretch->mask);",
        "candidates = zeros(hash[1], stretch->mask);",
        "wrong answer for nonces from ",
    ),
    "loses count": (
        "return (i < stretch->count ? i : stretch->count);",
        "return (stretch->count + 1);",
        "",
    ),
    "crashes": (
        "first_texts(text, stretch);",
        "__builtin_trap();",
        "crashed (signal ",
    ),
    "never ends": (
        "first_texts(text, stretch);",
        "for (;;) if (*stretch->stop) return (0);",
        "gave no answer within 5 s",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_kernel_is_refused_by_name(
    alone: Path, tmp_path: Path, how: str
) -> None:
    """The kernels of lanes.h are broken; the answer is right all the same."""
    right, wrong, reason = BREAKS[how]
    sources = Path(shutil.copytree(build.FOLDER, tmp_path / "sources"))
    text = (sources / "lanes.h").read_text()
    assert right in text
    (sources / "lanes.h").write_text(text.replace(right, wrong))
    built(alone.parent, sources, "-O1", "-w")
    started, *_, found = run(alone)
    assert "portable" in started["refused"]
    assert started["refused"]["portable"].startswith(reason)
    assert started["kernel"] in ("scalar", "shani", "shani-avx512vl", "armv8")
    assert found["nonce"] == ANSWER
    (event,) = run(alone, "--kernel", "portable", status=2)
    assert "kernel portable is refused: " in event["complaint"]


def test_a_stop_takes_effect_within_two_milliseconds(library: Path) -> None:
    """From raising the flag to the child's reply; the best of many measurements.

    On a machine with other work most of them measure the scheduler.
    """
    chosen = worker.choose_kernel("auto", path=str(library))
    pool = worker.ProcessPool(1, lambda stop, wakeup: chosen.make("x", 64, stop), 1)
    delays: list[float] = []
    try:
        child = pool.add()
        assert child is not None
        deadline = time.monotonic() + 120
        while min(delays, default=1.0) >= 0.002 and time.monotonic() < deadline:
            child.send(0, 2**40)
            time.sleep(0.02)  # so that it is within that stretch
            began = time.perf_counter()
            pool.set_stop(child, True)
            answer = os.read(child.descriptor, worker.REPLY.size)
            delay = time.perf_counter() - began
            tested, golden, _, _ = worker.REPLY.unpack(answer)
            assert not golden
            assert tested < 2**40
            if tested:  # else it had not begun yet
                delays.append(delay)
            pool.set_stop(child, False)
    finally:
        pool.end()
    assert min(delays) < 0.002


def test_a_stopped_scan_reports_exactly_what_it_tested(library: Path) -> None:
    """A stretch under a raised flag returns with no nonce tested."""
    chosen = worker.choose_kernel("auto", path=str(library))
    flag = memoryview(bytearray(4)).cast("i")
    scanner = chosen.make("x", 1, flag)
    flag[0] = 1
    assert scanner.scan(0, 1, 10**6) is None
    assert scanner.tested == 0
    flag[0] = 0
    assert scanner.scan(0, 1, 10**6) is not None
