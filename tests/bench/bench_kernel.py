"""The kernels side by side; the worker's start and stop with the native library.

Run it with `python -m tests.bench.bench_kernel [SECONDS]`.  It prints and never fails:
timings of one machine at one time prove nothing, ratios of interleaved slices do.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from cnd import pow as worker
from cnd.bench import kernels

RUNS = 15
SLICES, SLICE = 200, 2**18  # nonces


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


def witnesses(bits: int) -> tuple[list[float], str]:
    """Return the rate with witnesses over that without, of slices that take turns.

    Each slice is a worker's stretch; the time is the processor's.
    """
    search = worker.Search(worker.DEFAULT_BLOCK, 12, worker.MAX_NONCES)
    kernel = worker.choose_kernel("auto")
    stop = memoryview(bytearray(4)).cast("i")
    plain = kernel.make(search.block, search.difficulty, stop)
    scanners = (plain, worker.WitnessScanner(kernel.make, search, bits, stop))
    ratios = []
    for i in range(SLICES):
        took = []
        for scanner in scanners if i % 2 else scanners[::-1]:
            began = time.process_time()
            scanner.scan(10**9 + i * SLICE, 1, SLICE)
            took.append(time.process_time() - began)
        with_them, without = took if i % 2 == 0 else took[::-1]
        ratios.append(without / with_them)
    return ratios, kernel.name


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    print(kernels.kernel_bench(seconds).text())
    for what, took in (("start to found", start_to_found()), ("choice", choosing())):
        middle, best = statistics.median(took), min(took)
        print(f"{what}: n {RUNS}, median {middle:.3f} s, best {best:.3f} s")
    for bits in (13, 16, 19, 20, 24):
        ratios, name = witnesses(bits)
        low, middle, high = statistics.quantiles(ratios)
        told = f"median {middle:.4f}, quartiles {low:.4f} to {high:.4f}"
        print(f"rate with witnesses of {bits} bits: {name}, n {SLICES}, {told}")


if __name__ == "__main__":
    main()
