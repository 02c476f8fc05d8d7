"""A shared library for macOS, read where none can be loaded.

The format: <mach-o/loader.h> and <mach-o/nlist.h> of Apple's SDK.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = 0xFEEDFACF  # MH_MAGIC_64
LIBRARY = 6  # MH_DYLIB
ARM64, X86_64 = 0x0100000C, 0x01000007
MACOS = 1  # PLATFORM_MACOS
HEADER = struct.Struct("<8I")
COMMAND = struct.Struct("<2I")
SYMBOL = struct.Struct("<IBBHQ")

# Load commands.
SYMTAB, ID, CODE_SIGNATURE, BUILD_VERSION, RPATH = 0x2, 0xD, 0x1D, 0x32, 0x8000001C
LOADS = (0xC, 0x80000018, 0x8000001F)  # LC_LOAD_DYLIB, a weak one, a re-exported one
# Kinds of symbols.
DEBUGGING, PRIVATE, KIND, EXTERNAL = 0xE0, 0x10, 0x0E, 0x01


@dataclass(frozen=True)
class Library:
    """What a library is, offers and needs."""

    processor: int
    is_library: bool
    platform: int
    oldest: tuple[int, int]  # version of the system
    name: str  # by which it calls itself
    needs: tuple[str, ...]  # paths of other libraries
    searched: tuple[str, ...]  # paths where it has others looked for
    offers: frozenset[str]  # symbols
    asks: frozenset[str]  # symbols
    is_signed: bool


def mach_o(data: bytes) -> Library:
    """Return what the library in `data` says of itself; ValueError if it is none."""
    magic, processor, _, kind, *_ = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ValueError(f"not a 64-bit Mach-O file: {magic:#x}")
    found = list(commands(data))
    body = dict(found)
    (system, oldest) = struct.unpack_from("<2I", body[BUILD_VERSION], 8)
    symbols = list(_symbols(data, body[SYMTAB]))
    return Library(
        processor=processor,
        is_library=kind == LIBRARY,
        platform=system,
        oldest=(oldest >> 16, oldest >> 8 & 0xFF),
        name=_text(body[ID]),
        needs=tuple(_text(each) for command, each in found if command in LOADS),
        searched=tuple(_text(each) for command, each in found if command == RPATH),
        offers=frozenset(name for name, kind in symbols if kind),
        asks=frozenset(name for name, kind in symbols if not kind),
        is_signed=CODE_SIGNATURE in body,
    )


def commands(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the load commands: number and content."""
    at, count = HEADER.size, HEADER.unpack_from(data)[4]
    for _ in range(count):
        command, size = COMMAND.unpack_from(data, at)
        yield command, data[at : at + size]
        at += size


def _text(command: bytes) -> str:
    """Return the path in a command, which says where in it that begins."""
    (offset,) = struct.unpack_from("<I", command, COMMAND.size)
    return command[offset:].partition(b"\0")[0].decode()


def _symbols(data: bytes, table: bytes) -> Iterator[tuple[str, int]]:
    """Yield the symbols that others can see: name, and 0 for one that is needed."""
    offset, count, names, _ = struct.unpack_from("<4I", table, COMMAND.size)
    for number in range(count):
        name, kind, *_ = SYMBOL.unpack_from(data, offset + number * SYMBOL.size)
        if kind & EXTERNAL and not kind & (DEBUGGING | PRIVATE):
            text = data[names + name :].partition(b"\0")[0].decode()
            yield text, kind & KIND
