"""The native search kernels: C sources, and the libraries built from them.

One rule: a library is optional.  The libraries are made when the package is built
(hatch_build.py); if that was impossible, the worker searches with hashlib.
"""

import os
import sys
from pathlib import Path

# The library's name on a host, where it is beside pow.py.
PUSHED_NAME = "libcndpow.so"


def here() -> str:
    """Return the name of this machine, for `library`."""
    return os.uname().machine + ("_darwin" if sys.platform == "darwin" else "")


def library(machine: str) -> Path | None:
    """Return the library for `machine`, if there is one.

    Args:
        machine: as `uname -m` prints it; on macOS with ``_darwin`` at its end.
    """
    processor, darwin, _ = machine.lower().partition("_darwin")
    processor = {"arm64": "aarch64", "amd64": "x86_64"}.get(processor, processor)
    suffix = f"{darwin}.dylib" if darwin else ".so"
    path = Path(__file__).with_name(f"libcndpow-{processor}{suffix}")
    return path if path.is_file() else None
