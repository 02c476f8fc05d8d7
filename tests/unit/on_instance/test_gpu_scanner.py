"""The GPU scanner on a device of OpenCL, against hashlib: the processor, by pocl."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd import kernel
from cnd import pow as worker
from cnd.on_instance import gpu_scanner, opencl
from tests.kernel.searches import (
    BLOCK,
    LAST,
    check_against_hashlib,
    full_space,
    golden,
    stretches,
    texts,
)
from tests.support.opencl import SOURCE, WatchedDriver, device, make_scanner
from tests.support.vectors import VECTORS

HEADER = Path(kernel.__file__).with_name("kernel.h")


@settings(max_examples=60, deadline=None)
@given(block=texts(), stretch=stretches(), difficulty=st.integers(0, 2))
def test_a_gpu_finds_and_counts_what_hashlib_does(
    block: str, stretch: tuple[int, int, int], difficulty: int
) -> None:
    scanner = make_scanner()(block, difficulty)
    check_against_hashlib(scanner, block, stretch, difficulty)


@settings(max_examples=30, deadline=None)
@given(block=texts(), stretch=stretches(), bits=st.integers(1, 7))
def test_a_gpu_collects_the_witnesses_that_hashlib_does(
    block: str, stretch: tuple[int, int, int], bits: int
) -> None:
    start, step, count = stretch
    search = worker.Search(block, 2, worker.MAX_NONCES)
    seen = []
    for make in (worker.HashlibScanner, make_scanner()):
        scanner = worker.WitnessScanner(make, search, bits, (0,))
        hit = scanner.scan(start, step, count)
        seen.append((hit, scanner.tested, scanner.witnesses))
    assert seen[0] == seen[1]


def test_a_gpu_finds_the_published_nonces() -> None:
    known = VECTORS["blocks"][BLOCK]["smallest_golden_by_difficulty"]
    for difficulty in range(1, 6):
        scanner = make_scanner()(BLOCK, difficulty)
        assert (
            scanner.scan(0, 1, known[str(difficulty)] + 1000) == known[str(difficulty)]
        )
        assert scanner.tested == known[str(difficulty)] + 1


def test_difficulty_64_and_0_are_the_ends_of_the_scale() -> None:
    assert make_scanner()(BLOCK, 64).scan(0, 1, 5000) is None
    assert make_scanner()(BLOCK, 0).scan(5, 7, 1000) == 5


@pytest.mark.parametrize(
    ("start", "step", "count"),
    [(LAST, 1, 1), (LAST - 10**19, 10**19, 2), (0, LAST, 2), (LAST, 2**63, 1)],
)
def test_the_ends_of_the_range_are_reached(start: int, step: int, count: int) -> None:
    scanner = make_scanner()("x", 64)
    assert scanner.scan(start, step, count) is None
    assert scanner.tested == count


def test_a_long_block_of_4096_bytes_is_searched() -> None:
    block = "b" * 4096
    plain = worker.HashlibScanner(block, 1)
    scanner = make_scanner()(block, 1)
    assert scanner.scan(LAST - 40, 1, 41) == plain.scan(LAST - 40, 1, 41)
    assert scanner.tested == plain.tested


def test_a_hundredth_of_the_space_holds_the_known_golden_nonces() -> None:
    part = 2**32 // 100
    known = [nonce for nonce in full_space() if nonce < part]
    assert list(golden(make_scanner()(BLOCK, 6), 0, part)) == known


@pytest.mark.slow
def test_a_tenth_of_the_space_holds_the_known_golden_nonces() -> None:
    tenth = 2**32 // 10
    known = [nonce for nonce in full_space() if nonce < tenth]
    assert list(golden(make_scanner()(BLOCK, 6), 0, tenth)) == known


def test_more_hits_than_there_is_room_for_are_all_found() -> None:
    scanner = make_scanner()(BLOCK, 0)
    scanner._most = 4 * opencl.ROOM  # far more than a scanner of difficulty 0 launches
    device().launch_nonces = 4 * opencl.ROOM
    for nonce in range(2 * opencl.ROOM):
        assert scanner.scan(nonce, 1, 3 * opencl.ROOM - nonce) == nonce


# --- stops and faults


def watched(
    name: str, answer: Any, patience: float = opencl.PATIENCE
) -> tuple[WatchedDriver, opencl.Device]:
    """Return the device through a driver that counts and answers calls of `name`."""
    found = device()
    driver = WatchedDriver(found.cl, name, answer)
    return driver, opencl.Device(driver, found.found, SOURCE.read_bytes(), patience)


def test_no_launch_begins_after_a_stop() -> None:
    flag = (ctypes.c_int * 1)(0)
    stop = memoryview(flag).cast("B").cast("i")

    def raise_at_the_fifth(call: int) -> None:
        if call == 5:
            stop[0] = 1

    driver, opened = watched("clEnqueueNDRangeKernel", raise_at_the_fifth)
    scanner = gpu_scanner.OpenclScanner(opened, BLOCK, 64, stop)
    assert scanner.scan(0, 1, 10**12) is None
    assert 5 <= driver.calls <= 5 + opencl.IN_FLIGHT - 1
    # What has been tested is exact: from there the search can go on.
    left, stop[0] = 3 * 10**4, 0
    assert scanner.tested < left
    done = scanner.tested
    assert scanner.scan(done, 1, left - done) is None
    assert done + scanner.tested == left


@pytest.mark.parametrize(
    "name", ["clEnqueueNDRangeKernel", "clEnqueueReadBuffer", "clGetEventInfo"]
)
def test_a_device_that_fails_is_reported_and_gives_no_answer(name: str) -> None:
    _, opened = watched(name, lambda call: -36 if call == 3 else None)
    scanner = gpu_scanner.OpenclScanner(opened, BLOCK, 64)
    with pytest.raises(opencl.Failed, match=r"fails with status -36"):
        scanner.scan(0, 1, 10**12)


def test_a_launch_that_never_ends_is_given_up() -> None:
    hangs = False
    # The answer 0 says nothing of the status, which stays at "running".
    _, opened = watched("clGetEventInfo", lambda call: 0 if hangs else None, 0.2)
    scanner = gpu_scanner.OpenclScanner(opened, BLOCK, 64)
    assert scanner.scan(1, 1, 9) is None  # a first launch may include a compilation
    hangs = True
    with pytest.raises(opencl.Failed, match=r"has not ended after 0\.2 s"):
        scanner.scan(0, 1, 1000)


def test_two_launches_are_in_flight_and_no_call_waits_for_the_first() -> None:
    seen: list[int] = []

    def look(call: int) -> None:
        """Note how far the launch before is: 3 to 1 until it has ended."""
        if len(opened.flying) < opencl.IN_FLIGHT:
            return
        status, size = ctypes.c_int(), ctypes.c_size_t(4)
        event, what = opened.flying[0].event, ctypes.c_uint(opencl.STATUS)
        driver.clGetEventInfo(event, what, size, ctypes.byref(status), None)
        seen.append(status.value)

    driver, opened = watched("clEnqueueReadBuffer", look)
    scanner = gpu_scanner.OpenclScanner(opened, BLOCK, 64)
    # The texts become longer in between: what they have in common is written anew.
    for _ in range(20):
        opened.launch_nonces = 10**6
        scanner.scan(10**9 - 10**6, 1, 2 * 10**6)
        if any(status > opencl.COMPLETE for status in seen):
            return
    pytest.fail(f"each launch had ended before the next one: {seen}")


def test_no_driver_and_no_device_are_reasons() -> None:
    with pytest.raises(opencl.Unusable, match="no driver"):
        opencl.load_driver(("libnothing.so.1",))
    library = device().cl
    with pytest.raises(opencl.Unusable, match="no device"):
        opencl.devices(library)  # a processor counts only if it is wanted


def test_a_compiler_that_refuses_the_kernel_says_where() -> None:
    opened = opencl.Device(
        device().cl, device().found, b"kernel void scan(int a) { a = oops; }"
    )
    with pytest.raises(opencl.Unusable, match=r"refuses the kernel: .*oops"):
        opened.kernel(3)


# --- constants


def table(text: str, name: str) -> list[int]:
    """Return a table of words of C."""
    found = re.search(rf"\b{name}\[64\].*?\{{(.*?)\}}", text, re.S)
    assert found
    return [int(word, 16) for word in re.findall(r"0x[0-9a-f]{8}", found[1])]


def test_the_tables_are_those_of_the_standard() -> None:
    text, header = SOURCE.read_text(), HEADER.read_text()
    assert table(text, "K") == table(header, "K") == gpu_scanner.K
    words = [0x80000000, *[0] * 14, 512]
    padding = gpu_scanner._scheduled(words)
    assert table(text, "PADDING_KW") == table(header, "PADDING_KW") == padding
