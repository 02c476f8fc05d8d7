"""The kernels where no library can be loaded: sanitized, emulated, in software.

AVX-512's is run by SIMDe, which does every instruction in plain C: it proves the
source right, not what a compiler makes of it for a processor that has AVX-512.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cnd.kernel import build
from tests.kernel.programs import MACHINE, Scan, ask, build_program

BLOCK = b"COMSM0010cloud"


def scans(seed: int, count: int) -> Iterator[Scan]:
    """Yield scans of every kind, the same ones every time."""
    for i in range(count):
        random = int.from_bytes(hashlib.sha512(b"%d/%d" % (seed, i)).digest(), "big")
        random, kind = divmod(random, 4)
        random, length = divmod(random, 300)
        block = BLOCK if kind else hashlib.shake_128(b"%d" % i).digest(length)
        random, nonces = divmod(random, 90)
        random, scale = divmod(random, 7)
        random, step = divmod(random, 10**scale)
        random, digits = divmod(random, 20)
        ends = (10**digits, 2**32, 2**64, random % 10 ** (digits + 1))
        start = max(0, ends[i % 4] - (step + 1) * (nonces // 2))
        start = min(start, 2**64 - (step + 1) * (nonces + 1))
        yield Scan(block, 1 + i % 2, start, step + 1, nonces + 1)


def check(
    command: Sequence[str | Path], count: int, names: frozenset[str] = frozenset()
) -> list[str]:
    """Compare the program with hashlib; return the kernels that were compared."""
    table, _ = ask(command, [])
    able = [
        number
        for number, (name, supported) in enumerate(table)
        if supported and (not names or name in names)
    ]
    asked = [(number, scan) for scan in scans(len(able), count) for number in able]
    _, answers = ask(command, asked)
    expected = {scan: scan.expected() for _, scan in asked}
    for (number, scan), answer in zip(asked, answers, strict=True):
        assert answer == expected[scan], (table[number][0], scan)
    return [table[number][0] for number in able]


def needs(*programs: str) -> str:
    for program in programs:
        path = shutil.which(program)
        if path:
            return path
    pytest.skip(f"needs {' or '.join(programs)}")


@pytest.mark.slow
def test_the_sanitizers_report_nothing(tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer, every kernel that runs here."""
    # With gcc, as clang takes minutes for the unrolled rounds with all checks.
    compiler = needs("gcc")
    program = tmp_path / "driver"
    sanitize = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    build_program(program, [compiler], extra=sanitize)
    assert {"portable", "scalar"} < set(check([program], 60))


@pytest.mark.slow
def test_avx512_is_right_in_software(tmp_path: Path) -> None:
    compiler = needs("gcc")
    if MACHINE != "x86_64" or not Path("/usr/include/simde/x86/avx512.h").exists():
        pytest.skip("needs SIMDe (libsimde-dev) on x86-64")
    program = tmp_path / "driver"
    simde = Path(__file__).parent / "simde"
    # gnu11, no warnings, as SIMDe's code is not ours.
    software = ("-std=gnu11", "-O1", "-w", f"-I{simde}")
    build_program(
        program,
        [compiler],
        extra=["-O1", "-DCND_SOFTWARE_AVX512"],
        by_source={"avx512.c": software},
    )
    assert check([program], 25, frozenset(["avx512"])) == ["avx512"]


def cross_compiler() -> tuple[list[str], bool]:
    """Return a compiler for aarch64, and whether it is clang."""
    if importlib.util.find_spec("ziglang"):
        target = ["-target", "aarch64-linux-musl"]
        return [sys.executable, "-m", "ziglang", "cc", *target], True
    return [needs("aarch64-linux-gnu-gcc")], False


@pytest.mark.slow
@pytest.mark.parametrize("sha2", [True, False])
def test_the_arm_kernels_are_right_with_and_without_sha2(
    tmp_path: Path, sha2: bool
) -> None:
    """Every processor that QEMU 7 emulates has SHA2; a test build ignores its flag."""
    emulator = needs("qemu-aarch64-static", "qemu-aarch64")
    command, is_clang = cross_compiler()
    program = tmp_path / "driver"
    build_program(
        program,
        command,
        machine="aarch64",
        is_clang=is_clang,
        extra=["-static", "-O1", *([] if sha2 else ["-DCND_HWCAP_SHA2=0"])],
    )
    names = check([emulator, program], 40)
    assert names == (["armv8"] if sha2 else []) + ["portable", "scalar"]


def test_the_table_of_constants_is_derived_from_the_standard() -> None:
    """PADDING_KW is the schedule of the padding block, K added (FIPS 180-4)."""
    text = (build.FOLDER / "kernel.h").read_text()

    def table(name: str) -> list[int]:
        words = text.partition(f"{name}[64]")[2].partition("};")[0].partition("{")[2]
        return [int(word, 16) for word in words.split(",") if word.strip()]

    k, w = table("K"), [0x80000000, *[0] * 14, 512]

    def rotr(x: int, n: int) -> int:
        return (x >> n | x << (32 - n)) & 0xFFFFFFFF

    for t in range(16, 64):
        s0 = rotr(w[t - 15], 7) ^ rotr(w[t - 15], 18) ^ w[t - 15] >> 3
        s1 = rotr(w[t - 2], 17) ^ rotr(w[t - 2], 19) ^ w[t - 2] >> 10
        w.append((s1 + w[t - 7] + s0 + w[t - 16]) & 0xFFFFFFFF)
    derived = [(a + b) & 0xFFFFFFFF for a, b in zip(k, w, strict=True)]
    assert table("PADDING_KW") == derived
