"""The files that a host gets: worker, watchdog, and the library for its processor.

One rule: every program that runs on a host is here, and none of it is a secret.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from cnd import kernel, on_instance
from cnd import pow as worker

WORKER = Path(worker.__file__)
# Files, which need not be imported to be sent.
PROGRAMS = Path(on_instance.__file__).parent
KERNELS = Path(kernel.__file__).parent
# On every host; as files, since a host has no package `cnd`.
COMMON = {
    "pow.py": WORKER,
    "watchdog.py": PROGRAMS / "watchdog.py",
    "http_client.py": PROGRAMS / "http_client.py",
    "worker_events.py": PROGRAMS / "worker_events.py",
}
# Besides, on hosts that may have a GPU.
FOR_GPU = {
    "gpu_scanner.py": PROGRAMS / "gpu_scanner.py",
    "opencl.py": PROGRAMS / "opencl.py",
    "golden.cl": KERNELS / "golden.cl",
}


@functools.cache
def code(
    machine: str, kernel_name: str = "auto", *, gpu: bool = False
) -> Mapping[str, bytes]:
    """Return the files (name -> content) for a host whose ``uname -m`` is `machine`.

    Without a library for it the worker searches with hashlib.

    Args:
        kernel_name: the kernel that it is to search with.
        gpu: whether the host may have a GPU.
    """
    files = dict(COMMON)
    library = kernel.library(machine)
    if library and kernel_name != "hashlib":
        files[kernel.PUSHED_NAME] = library
    if gpu:
        files |= FOR_GPU
    return {name: path.read_bytes() for name, path in files.items()}


def code_with(script: Path) -> Mapping[str, bytes]:
    """Return the files for a host that runs the user's own script as its worker."""
    files = {
        **COMMON,
        "script_runner.py": PROGRAMS / "script_runner.py",
        script.name: script,
    }
    return {name: path.read_bytes() for name, path in files.items()}
