"""A device of OpenCL for tests: the processor, by pocl, as few machines have a GPU."""

from __future__ import annotations

import functools
import glob
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cnd import kernel
from cnd import pow as worker
from cnd.on_instance import gpu_scanner, opencl
from tests.kernel.programs import c_compiler

SOURCE = Path(kernel.__file__).with_name(gpu_scanner.SOURCE)
# What a host with a GPU has beside `pow.py`.
BESIDE = (Path(gpu_scanner.__file__), Path(opencl.__file__), SOURCE)
Make = Callable[..., gpu_scanner.OpenclScanner]


@functools.cache
def _opened() -> opencl.Device | str:
    """Return the processor as a device, for this process only, or why there is none."""
    os.environ[opencl.CPU_WANTED] = "1"
    try:
        return gpu_scanner.open_device(0, SOURCE.read_bytes())[0]
    except opencl.Unusable as reason:
        return str(reason)
    finally:
        del os.environ[opencl.CPU_WANTED]


@functools.cache
def missing() -> str:
    """Return why no device can be used here, or "" if one can.

    It is found by a process of its own: after a fork, a process that has called OpenCL
    could not use it.
    """
    code = "from cnd.on_instance import opencl; opencl.devices(opencl.load_driver())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, opencl.CPU_WANTED: "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def device() -> opencl.Device:
    """Return a device; skip the test where there is none."""
    found = _opened()
    if isinstance(found, str):
        pytest.skip(f"needs a device of OpenCL (pocl-opencl-icd): {found}")
    return found


def make_scanner() -> Make:
    """Return what makes scanners of the device."""
    return functools.partial(gpu_scanner.OpenclScanner, device())


def require_device() -> None:
    """Skip the test where no process could use a device."""
    if reason := missing():
        pytest.skip(f"needs a device of OpenCL (pocl-opencl-icd): {reason}")


class WatchedDriver:
    """The driver, with calls of one function counted, and perhaps answered by a status.

    Args:
        name: of the function.
        answer: returns the status of the n-th call instead of the driver, or None.
    """

    def __init__(
        self, library: Any, name: str, answer: Callable[[int], int | None]
    ) -> None:
        self._library, self._name, self._answer = library, name, answer
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        if name != self._name:
            return function

        def watched(*arguments: Any) -> Any:
            self.calls += 1
            status = self._answer(self.calls)
            return function(*arguments) if status is None else status

        watched.__name__ = name
        return watched


FORWARDING = """
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <unistd.h>

typedef void * word;
typedef word function(word, word, word, word, word, word, word, word, word, word);

static function *
real(const char * name)
{
	static void * library;

	if (library == NULL)
		library = dlopen(REAL, RTLD_NOW);
	return ((function *)dlsym(library, name));
}

/* The parameters and results of all these functions are words. */
#define FORWARD(name, ...) \\
word \\
name(word a, word b, word c, word d, word e, word f, word g, word h, word i, \\
    word j) \\
{ \\
	static int calls; \\
	calls++; \\
	__VA_ARGS__; \\
	return (real(#name)(a, b, c, d, e, f, g, h, i, j)); \\
}
"""


def faulty_driver(folder: Path, **faults: str) -> dict[str, str]:
    """Build a driver of which some functions have a fault; return what makes it used.

    Args:
        faults: statements in C by the name of the function, before the call of the real
            one; `calls` counts, and `real` returns the real one by its name.
    """
    compiler = c_compiler()
    places = ("/usr/lib/*/libOpenCL.so.1", "/usr/lib*/libOpenCL.so.1")
    real = [path for place in places for path in glob.glob(place)]
    if compiler is None or not real:
        pytest.skip("needs a C compiler, and the library of OpenCL")
    names = re.findall(r"(?:cl|library)\.(cl[A-Z]\w+)", BESIDE[1].read_text())
    names += re.findall(r'"(clCreate\w+)"', BESIDE[1].read_text())
    lines = [f"FORWARD({name}, {faults.get(name, '')})" for name in sorted(set(names))]
    source, target = folder / "driver.c", folder / "driver" / "libOpenCL.so.1"
    target.parent.mkdir()
    source.write_text("\n".join([f'#define REAL "{real[0]}"', FORWARDING, *lines, ""]))
    command = [compiler, "-shared", "-fPIC", "-o", str(target), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_LIBRARY_PATH": str(target.parent)}


def beside(folder: Path, *edits: tuple[str, str]) -> Path:
    """Put the worker and what a GPU needs into a folder; return the worker.

    Args:
        edits: what to replace in the kernel, and by what.
    """
    for path in (Path(worker.__file__), *BESIDE):
        text = path.read_text()
        for old, new in edits if path == SOURCE else ():
            assert old in text
            text = text.replace(old, new)
        (folder / path.name).write_text(text)
    return folder / "pow.py"


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a worker for which the processor is a GPU."""
    return {**os.environ, opencl.CPU_WANTED: "1", **more}


def last_of(events: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(event for event in reversed(events) if event["event"] == kind)
