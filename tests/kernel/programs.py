"""Builds the variants of the C test program, and the libraries for tests."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cnd import kernel, pow
from cnd.kernel import build

HERE = Path(__file__).parent
MACHINE = platform.machine()
NONE, FOUND, STOPPED, BAD = 0, 1, 2, -1


class Scan(NamedTuple):
    """The request in one line to the program."""

    block: bytes
    difficulty: int
    start: int
    step: int
    nonces: int

    def line(self, number: int) -> str:
        parts = (number, self.difficulty, self.start, self.step, self.nonces)
        return " ".join(map(str, (*parts, self.block.hex() or "-")))

    def expected(self) -> tuple[int, int, int]:
        """Return result, tested and nonce, by hashlib."""
        scanner = pow.HashlibScanner("", self.difficulty)
        scanner._message = b"%d" + self.block.replace(b"%", b"%%")
        nonce = scanner.scan(self.start, self.step, self.nonces)
        found = NONE if nonce is None else FOUND
        return found, scanner.tested, nonce or 0


def c_compiler() -> str | None:
    """Return a C compiler for this machine, if there is one."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def current_library() -> Path | None:
    """Return the built library of this machine, if it was built from these sources."""
    stamp = build.FOLDER / build.STAMP
    if stamp.exists() and stamp.read_text().startswith(build.source_digest()):
        return kernel.library(MACHINE)
    return None


def build_program(
    target: Path,
    command: Sequence[str],
    *,
    machine: str = MACHINE,
    is_clang: bool = False,
    extra: Sequence[str] = (),
    by_source: dict[str, Sequence[str]] | None = None,
) -> None:
    """Compile the test program and all kernels of `machine` into one executable."""
    objects = []
    common = [*build.FLAGS, f"-I{build.FOLDER}", *extra]
    driver = build.Unit(str(HERE / "driver.c"))
    for number, unit in enumerate([*build.UNITS[machine], driver]):
        made = f"{target}-{number}.o"
        usual = (*unit.flags, *(unit.clang_flags if is_clang else ()))
        own = (by_source or {}).get(unit.source, usual)
        source = build.FOLDER / unit.source
        done = [*command, *common, *own, "-c", str(source), "-o", made]
        subprocess.run(done, check=True)
        objects.append(made)
    subprocess.run([*command, *extra, *objects, "-o", str(target)], check=True)


def ask(
    command: Sequence[str | Path], scans: Iterable[tuple[int, Scan]]
) -> tuple[list[tuple[str, bool]], list[tuple[int, ...]]]:
    """Run the program; return its table of kernels, and its answers."""
    lines = "".join(scan.line(number) + "\n" for number, scan in scans)
    done = subprocess.run(
        command, input=lines, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    table, _, answers = done.stdout.partition("\n\n")
    kernels = [line.split() for line in table.splitlines()]
    return (
        [(name, supported == "1") for name, supported in kernels],
        [tuple(map(int, line.split())) for line in answers.splitlines()],
    )
