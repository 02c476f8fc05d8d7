"""The native search kernels: C sources, and the libraries built from them.

One rule: a library is optional.  The libraries are made when the package is built
(hatch_build.py); if that was impossible, the worker searches with hashlib.
"""

from pathlib import Path

# The library's name on a host, where it is beside pow.py.
PUSHED_NAME = "libcndpow.so"


def library(machine: str) -> Path | None:
    """Return the library for `machine`, as `uname -m` prints it, if there is one."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(machine.lower(), machine)
    path = Path(__file__).with_name(f"libcndpow-{machine}.so")
    return path if path.is_file() else None
