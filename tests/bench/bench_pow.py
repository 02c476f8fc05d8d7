"""How fast the worker is: its loop against others, its start, its stop.

Run it with `python -m tests.bench.bench_pow`.  It prints and never fails: timings of
one machine at one time prove nothing, ratios of interleaved slices do.
"""

from __future__ import annotations

import hashlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from cnd import pow as worker

BLOCK = worker.DEFAULT_BLOCK
DIFFICULTY = 12  # there is no hit
SLICE = 20_000  # nonces: a worker's stretch
ROUNDS = 30
RUNS = 15

Scan = Callable[[int, int], object]


def plain(start: int, count: int) -> int:
    """The plainest loop that says how many nonces it has tested."""
    tested = 0
    zeros = "0" * DIFFICULTY
    for nonce in range(start, start + count):
        first = hashlib.sha256((str(nonce) + BLOCK).encode()).hexdigest()
        tested += 1
        if hashlib.sha256(first.encode()).hexdigest().startswith(zeros):
            break
    return tested


def of_the_worker(start: int, count: int) -> int | None:
    return worker.HashlibScanner(BLOCK, DIFFICULTY).scan(start, 1, count)


def loops() -> None:
    """Print nonces per second of both loops, from interleaved slices."""
    forms: dict[str, Scan] = {"plain loop": plain, "HashlibScanner": of_the_worker}
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for i in range(ROUNDS):
        for name, scan in forms.items():
            began = time.process_time()
            scan(10**6 + i * SLICE, SLICE)
            rates[name].append(SLICE / (time.process_time() - began))
    base = statistics.median(rates["plain loop"])
    for name, values in rates.items():
        median = statistics.median(values)
        show(name, len(values), f"{median / 1e6:.2f} M nonces/s  x {median / base:.2f}")


def start_to_found() -> None:
    """Print the seconds of the whole process, Python's own start included."""
    for name, words in {
        "python -I -S -c pass": ["-c", "pass"],
        "process, D=2, with syslog": [worker.__file__, "--difficulty", "2"],
        "process, D=2": [worker.__file__, "--difficulty", "2", "--no-syslog"],
    }.items():
        seconds = []
        for _ in range(RUNS):
            began = time.perf_counter()
            command = [sys.executable, "-I", "-S", *words]
            subprocess.run(command, stdout=subprocess.PIPE, check=True)
            seconds.append(time.perf_counter() - began)
        show(name, RUNS, f"{1000 * statistics.median(seconds):.1f} ms")


def stop() -> None:
    """Print the seconds from SIGTERM to the event `stopped`."""
    seconds = []
    for _ in range(RUNS):
        with subprocess.Popen(
            [sys.executable, "-I", "-S", worker.__file__, "--difficulty", "30"],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.3)  # stretches have their full length by then
            began = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            while b'"stopped"' not in process.stdout.readline():
                pass
            seconds.append(time.perf_counter() - began)
    median, worst = statistics.median(seconds), max(seconds)
    show(
        "SIGTERM to stopped",
        RUNS,
        f"{1000 * median:.1f} ms, at most {1000 * worst:.1f}",
    )


def show(name: str, n: int, median: str) -> None:
    print(f"{name:28} n={n:<4} median {median}", flush=True)


def main() -> None:
    loops()
    start_to_found()
    stop()


if __name__ == "__main__":
    main()
