"""The kernels side by side; the worker's start and stop with the native library.

Run it with `python -m tests.bench.bench_kernel [SECONDS]`.  It prints and never fails:
timings of one machine at one time prove nothing, ratios of interleaved slices do.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from cnd import bench
from cnd import pow as worker

RUNS = 15


def start_to_found() -> list[float]:
    """Return seconds from the worker's start to its end, at difficulty 2."""
    command = [sys.executable, "-I", "-S", worker.__file__]
    took = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run(
            [*command, "--difficulty", "2", "--no-syslog"],
            check=True,
            capture_output=True,
        )
        took.append(time.perf_counter() - began)
    return took


def choosing() -> list[float]:
    """Return seconds that the proof and the trial of all kernels take."""
    took = []
    for _ in range(RUNS):
        began = time.perf_counter()
        worker.choose_kernel("auto")
        took.append(time.perf_counter() - began)
    return took


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    print(bench.kernel_bench(seconds).text())
    for what, took in (("start to found", start_to_found()), ("choice", choosing())):
        middle, best = statistics.median(took), min(took)
        print(f"{what}: n {RUNS}, median {middle:.3f} s, best {best:.3f} s")


if __name__ == "__main__":
    main()
