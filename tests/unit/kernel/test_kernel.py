"""Every kernel that this processor supports, against hashlib."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd import kernel
from cnd import pow as worker
from cnd.kernel import build
from tests.kernel.programs import BAD, MACHINE, Scan, current_library
from tests.kernel.searches import (
    BLOCK,
    LAST,
    check_against_hashlib,
    full_space,
    golden,
    stretches,
    texts,
)
from tests.support.vectors import VECTORS

pytestmark = pytest.mark.skipif(
    current_library() is None, reason="needs a library built of these sources"
)


def kernels() -> list[tuple[int, str]]:
    """Return number and name of what can be run here."""
    path = current_library()
    if path is None:
        return []
    table = worker.list_kernels(worker.load_library(str(path)))
    return [(i, name) for i, (name, supported) in enumerate(table) if supported]


def scanner(number: int, block: str, difficulty: int) -> worker.NativeScanner:
    library = worker.load_library(str(kernel.library(MACHINE)))
    return worker.NativeScanner(library, number, block, difficulty)


each_kernel = pytest.mark.parametrize(
    "number", [pytest.param(number, id=name) for number, name in kernels()]
)


@each_kernel
@settings(max_examples=60, deadline=None)
@given(block=texts(), stretch=stretches(), difficulty=st.integers(0, 2))
def test_a_kernel_finds_and_counts_what_hashlib_does(
    number: int, block: str, stretch: tuple[int, int, int], difficulty: int
) -> None:
    native = scanner(number, block, difficulty)
    check_against_hashlib(native, block, stretch, difficulty)


@each_kernel
def test_a_kernel_finds_the_published_nonces(number: int) -> None:
    known = VECTORS["blocks"][BLOCK]["smallest_golden_by_difficulty"]
    for difficulty in range(1, 6):
        nonce = known[str(difficulty)]
        native = scanner(number, BLOCK, difficulty)
        assert native.scan(0, 1, nonce + 1000) == nonce
        assert native.tested == nonce + 1


@each_kernel
def test_difficulty_64_and_0_are_the_ends_of_the_scale(number: int) -> None:
    assert scanner(number, BLOCK, 64).scan(0, 1, 5000) is None
    assert scanner(number, BLOCK, 0).scan(5, 7, 1000) == 5


def asked(number: int, scan: Scan) -> tuple[int, int, int]:
    """Return what the library itself answers: result, tested, nonce."""
    library = worker.load_library(str(kernel.library(MACHINE)))
    tested, nonce = ctypes.c_uint64(), ctypes.c_uint64()
    given = (number, scan.block, len(scan.block), scan.difficulty)
    where = (scan.start, scan.step, scan.nonces)
    out = (None, ctypes.byref(tested), ctypes.byref(nonce))
    return library.cnd_scan(*given, *where, *out), tested.value, nonce.value


@each_kernel
@pytest.mark.parametrize(
    "scan",
    [
        Scan(b"x", 64, LAST, 1, 1),
        Scan(b"x", 64, LAST - 10**19, 10**19, 2),
        Scan(b"x", 64, 0, LAST, 2),
        Scan(b"x", 0, LAST, 2**63, 1),
        Scan(b"x", 1, 5, 1, 0),
        Scan(bytes(4096), 1, LAST - 40, 1, 41),
    ],
)
def test_the_ends_of_the_range_are_reached(number: int, scan: Scan) -> None:
    assert asked(number, scan) == scan.expected()


@each_kernel
@pytest.mark.parametrize(
    "scan",
    [
        Scan(b"x", 1, LAST, 1, 2),
        Scan(b"x", 1, 0, LAST, 3),
        Scan(b"x", 1, 1, 0, 1),
        Scan(b"x", 65, 1, 1, 1),
        Scan(bytes(4097), 1, 1, 1, 1),
    ],
)
def test_invalid_arguments_are_refused(number: int, scan: Scan) -> None:
    assert asked(number, scan) == (BAD, 0, 0)


def test_an_unknown_kernel_scans_nothing() -> None:
    scan = Scan(b"x", 0, 1, 1, 1)
    for number in (len(kernels()) + 10, 2**32 - 1):
        assert asked(number, scan) == (BAD, 0, 0)


@pytest.mark.slow
@each_kernel
def test_a_tenth_of_the_space_holds_the_known_golden_nonces(number: int) -> None:
    tenth = 2**32 // 10
    if number == kernels()[-1][0]:
        tenth //= 20  # the plain reference takes minutes
    known = [nonce for nonce in full_space() if nonce < tenth]
    assert list(golden(scanner(number, BLOCK, 6), 0, tenth)) == known


@pytest.mark.slow
def test_the_full_space_holds_exactly_the_known_golden_nonces() -> None:
    chosen = worker.choose_kernel("auto", BLOCK, str(kernel.library(MACHINE)))
    native = chosen.make(BLOCK, 6, (0,))
    assert list(golden(native, 0, 2**32)) == full_space()


def test_the_library_of_an_architecture_goes_by_its_names() -> None:
    assert kernel.library("arm64") == kernel.library("aarch64")
    assert kernel.library("amd64") == kernel.library("x86_64")
    assert kernel.library("riscv64") is None
    assert kernel.here() in (MACHINE, f"{MACHINE}_darwin")
    for machine in build.TARGETS:
        path = kernel.library(machine)
        assert path is None or path.name == build.library_name(machine)


@pytest.mark.parametrize("machine", build.UNITS)
def test_a_library_needs_no_other_and_no_version_of_one(machine: str) -> None:
    """What it calls of the C library is there in every process, whichever that is."""
    path = kernel.library(machine)
    assert path is not None
    found = path.read_bytes()
    assert b"cnd_scan\0" in found
    assert b"memset\0" in found
    assert b"libc.so" not in found
    assert b"GLIBC" not in found
