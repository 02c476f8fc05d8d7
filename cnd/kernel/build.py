"""Builds the kernels' library for one machine, from C, with any compiler.

One rule: the same sources and compiler give the same bytes on every machine.  Each C
file is compiled with the flags of its own instruction set, so that no other file gets
an instruction that the processor may lack.

The build hook (hatch_build.py) runs it with the compiler of the package ziglang; the
tests run it with all installed compilers, with sanitizers, and with a kernel broken on
purpose.  It imports nothing of the package, as the hook loads it before that exists.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
STAMP = "kernel.stamp"  # a file with the digest of the sources of the built libraries

AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl")
# clang's scheduler changes the order in which the streams take turns (docs/kernel.md).
AS_WRITTEN = ("-mllvm", "-enable-misched=false")

FLAGS = (
    "-std=c11",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Werror",
)
# No library of the compiler's: what a kernel calls of the C library (memset; on ARM
# getauxval) is there in every process that loads it.  zig would make stubs of a C
# library first, which took as long as all that is compiled here.
LINK = ("-shared", "-s", "-nostdlib")
# The path by which a library on macOS calls itself; else it is that of this build.
NAMED = ("-Wl,-install_name,@rpath/libcndpow.dylib",)


class Unit(NamedTuple):
    """One compilation: a C file and the flags of its instruction set."""

    source: str
    flags: tuple[str, ...] = ()
    clang_flags: tuple[str, ...] = ()


COMMON = (Unit("scan.c"), Unit("table.c"), Unit("scalar.c"), Unit("portable.c"))
UNITS = {
    "x86_64": (
        *COMMON,
        Unit("avx2.c", ("-mavx2",)),
        Unit("avx512.c", AVX512, AS_WRITTEN),
        Unit("shani.c", ("-msha", "-mavx"), AS_WRITTEN),
        Unit("shani.c", ("-msha", *AVX512), AS_WRITTEN),
    ),
    "aarch64": (*COMMON, Unit("armv8.c", ("-mcpu=generic+crypto",))),
}
# The machines that a library is built for, and what zig calls them: Linux with the
# oldest C library that it knows (Amazon Linux 2 has a newer one), and macOS.
MACOS = "_darwin"  # at the end of a machine's name
TARGETS = {
    "x86_64": "x86_64-linux-gnu.2.17",
    "aarch64": "aarch64-linux-gnu.2.17",
    f"x86_64{MACOS}": "x86_64-macos.11.0",
    f"aarch64{MACOS}": "aarch64-macos.11.0",
}


class Compiler(NamedTuple):
    """A C compiler: its command, and whether it is clang."""

    command: tuple[str, ...]
    is_clang: bool = False


def library_name(machine: str) -> str:
    """Return the file name of the library for a machine of `TARGETS`."""
    return f"libcndpow-{machine}.{'dylib' if machine.endswith(MACOS) else 'so'}"


def sources() -> list[Path]:
    """Return all source files of a library, sorted."""
    return sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h"), Path(__file__)])


def source_digest() -> str:
    """Return a digest of the sources, including this file with its flags."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def build(
    machine: str,
    compiler: Compiler,
    target: Path,
    *,
    extra: Sequence[str] = (),
    folder: Path = FOLDER,
) -> None:
    """Compile the library for `machine` from the sources in `folder`.

    `extra` is added to every command.  Raises OSError if the compiler cannot be run,
    and subprocess.CalledProcessError, with its messages in `stderr`, if it fails.
    """

    def compile_unit(number: int, unit: Unit, to: str) -> str:
        made = str(Path(to, f"{number}.o"))
        own = unit.flags + (unit.clang_flags if compiler.is_clang else ())
        _run(
            [*compiler.command, *FLAGS, *own, *extra, "-c", unit.source, "-o", made],
            folder,
        )
        return made

    with tempfile.TemporaryDirectory() as objects, ThreadPoolExecutor() as pool:
        units = UNITS[machine.removesuffix(MACOS)]
        made = list(
            pool.map(compile_unit, range(len(units)), units, [objects] * len(units))
        )
        named = NAMED if machine.endswith(MACOS) else ()
        link = [*LINK, *named, *extra, "-o", str(target.absolute()), *made]
        _run([*compiler.command, *link], folder)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
