"""The files that a host gets: worker, watchdog, and the library for its processor.

One rule: every program that runs on a host is here, and none of it is a secret.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from cnd import kernel
from cnd import pow as worker
from cnd.on_instance import http_client, script_runner, watchdog, worker_events

WORKER = Path(worker.__file__)
# On every host; as files, since a host has no package `cnd`.
COMMON = {
    "pow.py": WORKER,
    "watchdog.py": Path(watchdog.__file__),
    "http_client.py": Path(http_client.__file__),
    "worker_events.py": Path(worker_events.__file__),
}


@functools.cache
def code(machine: str, kernel_name: str = "auto") -> Mapping[str, bytes]:
    """Return the files (name -> content) for a host whose ``uname -m`` is `machine`.

    Without a library for it the worker searches with hashlib.

    Args:
        kernel_name: the kernel that it is to search with.
    """
    files = dict(COMMON)
    library = kernel.library(machine)
    if library and kernel_name != "hashlib":
        files[kernel.PUSHED_NAME] = library
    return {name: path.read_bytes() for name, path in files.items()}


def code_with(script: Path) -> Mapping[str, bytes]:
    """Return the files for a host that runs the user's own script as its worker."""
    files = {
        **COMMON,
        "script_runner.py": Path(script_runner.__file__),
        script.name: script,
    }
    return {name: path.read_bytes() for name, path in files.items()}
