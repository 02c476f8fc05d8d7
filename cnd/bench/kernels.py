"""How fast this machine searches: every kernel, measured side by side.

One rule: only slices that took turns on the same core are compared.  A shared machine's
speed changes by half within seconds; a ratio of medians of interleaved slices hardly
does.

Cycles are of the clock that the core ran at during a slice, measured by a chain of
dependent additions, one cycle each (cnd/kernel's library has it, so that no compiler
is needed).  docs/kernel.md has the limits to compare with, which differ by processor.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnd import kernel, pow
from cnd.bench import rivals
from cnd.bench.gpu import GpuBench, gpu_bench
from cnd.bench.rivals import Rival
from cnd.model.events import printable_line
from cnd.model.format import table

SLICE = 0.005  # seconds
CHAIN = 64_000  # additions: some 20 microseconds
START = 10**9  # ten digits, like most nonces of the default space

Scan = Callable[[int], object]  # tests that many nonces


@dataclass(frozen=True)
class Measured:
    """One way to search: nonces a second over its slices, and cycles a nonce."""

    name: str
    rates: tuple[float, ...]
    cycles: float | None  # median; None where the clock is not known

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


@dataclass(frozen=True)
class KernelBench:
    """What `kernel` measured: one core, all of them, and other programs beside."""

    core: tuple[Measured, ...]
    cores: int
    all_cores: float  # nonces a second by the best kernel, all cores at once
    one_core: float  # the same by one of them, just before and after
    gpu: GpuBench
    rivals: Sequence[Rival] = ()  # other programs beside, on one core

    @property
    def best(self) -> Measured:
        return max(self.core, key=lambda measured: measured.median)

    def to_json(self) -> str:
        """Return everything as one JSON object; rates in nonces a second."""
        kernels = [
            {
                "name": m.name,
                "slices": len(m.rates),
                "min": round(min(m.rates)),
                "median": round(m.median),
                "max": round(max(m.rates)),
                "of_best": round(m.median / self.best.median, 4),
                "cycles": m.cycles and round(m.cycles, 1),
            }
            for m in self.core
        ]
        record = {
            "processor": processor(),
            "kernels": kernels,
            "cores": self.cores,
            "one_core": round(self.one_core),
            "all_cores": round(self.all_cores),
            "beside": {r.name: round(r.rate) for r in self.rivals if r.rate},
            "failed": {r.name: r.reason for r in self.rivals if not r.rate},
            "gpu": self.gpu.to_json(),
        }
        return json.dumps(record)

    def text(self) -> str:
        """Return the table to read; rates in millions of nonces a second."""
        head = ("", "min", "median", "max", "of best", "cycles")
        rows = [head, *map(self._row, self.core)]
        lines = [f"{processor()}, one core, {len(self.best.rates)} slices in turn, M/s"]
        lines += table(rows, ("<18", ">9"))
        ratio = self.all_cores / self.one_core
        lines.append(
            f"{self.cores} cores: {self.all_cores / 1e6:.2f} M/s, {ratio:.2f} x one"
        )
        return "\n".join([*lines, *map(self._beside, self.rivals), self.gpu.line])

    def _beside(self, rival: Rival) -> str:
        if not rival.rate:
            why = printable_line(rival.reason)
            return f"{rival.name}: is installed and did not run: {why}"
        times, rate = self.best.median / rival.rate, rival.rate / 1e6
        best = f"{self.best.name} on one core x {times:.2f}"
        return f"{rival.name}, held on one core: {rate:.2f} M/s; {best}"

    def _row(self, m: Measured) -> tuple[str, ...]:
        rates = [f"{rate / 1e6:.2f}" for rate in (min(m.rates), m.median, max(m.rates))]
        share = f"{m.median / self.best.median:.3f}"
        cycles = f"{m.cycles:.0f}" if m.cycles else "-"
        return (m.name, *rates, share, cycles)


def kernel_bench(seconds: float = 10.0) -> KernelBench:
    """Measure for about `seconds` (other programs take up to 40 more each).

    Raises nothing where something is missing: without the library, hashlib's two loops
    are measured.
    """
    library = _library()
    scans = dict(_native(library)) | {
        "hashlib, best": _by_hashlib,
        "hashlib, obvious": _obvious,
    }
    clock = _clock(library)
    core = _in_turn(scans, clock, 0.7 * seconds)
    best = max(core, key=lambda measured: measured.median)
    one, every, cores = _all_cores(scans[best.name], 0.3 * seconds)
    with _one_core():
        others = rivals.rivals()
    return KernelBench(core, cores, every, one, gpu_bench(), others)


def processor() -> str:
    """Return the processor's name, as far as the system knows it."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.M)
        if found:
            return found[1]
    return platform.machine()


def _read(path: str) -> str:
    return Path(path).read_text()


# --- what is measured


def _library() -> Any:
    path = kernel.library(kernel.here())
    with contextlib.suppress(pow.Refused):
        return path and pow.load_library(str(path))
    return None


def _native(library: Any) -> Iterator[tuple[str, Scan]]:
    if library is None:
        return
    for number, (name, supported) in enumerate(pow.list_kernels(library)):
        if supported:
            scanner = pow.NativeScanner(library, number, pow.DEFAULT_BLOCK, 64)
            yield name, functools.partial(scanner.scan, START, 1)


def _by_hashlib(count: int) -> None:
    pow.HashlibScanner(pow.DEFAULT_BLOCK, 64).scan(START, 1, count)


def _obvious(count: int) -> None:
    """The loop that the task describes."""
    for nonce in range(START, START + count):
        first = hashlib.sha256((str(nonce) + pow.DEFAULT_BLOCK).encode()).hexdigest()
        second = hashlib.sha256(first.encode()).hexdigest()
        if second.startswith("0" * 64):
            return


def _clock(library: Any) -> Callable[[], float] | None:
    """Return a function for the core's cycles a second, if the library has one."""
    try:
        chain = library.cnd_chain
    except AttributeError:
        return None

    def clock() -> float:
        return CHAIN / min(_timed(chain, CHAIN) for _ in range(3))

    return clock


# --- how it is measured


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Stay on one core, where the system allows a choice."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _timed(scan: Scan, count: int) -> float:
    """Return the processor time it takes, without that of other processes."""
    began = time.thread_time()
    scan(count)
    return max(time.thread_time() - began, 1e-9)


def _count_for(scan: Scan, seconds: float) -> int:
    """Return how many nonces take about `seconds`."""
    count, took = 64, 0.0
    while took < seconds / 4:
        count *= 2
        took = min(_timed(scan, count) for _ in range(3))  # undisturbed
    return max(1, int(count * seconds / took))


def _in_turn(
    scans: Mapping[str, Scan], clock: Callable[[], float] | None, seconds: float
) -> tuple[Measured, ...]:
    """Measure slices that take turns, on one core."""
    rates: dict[str, list[float]] = {name: [] for name in scans}
    cycles: dict[str, list[float]] = {name: [] for name in scans}
    with _one_core():
        counts = {name: _count_for(scan, SLICE) for name, scan in scans.items()}
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(next(iter(rates.values()))) < 3:
            for name, scan in scans.items():
                before = clock() if clock else 0.0
                rate = counts[name] / _timed(scan, counts[name])
                rates[name].append(rate)
                if clock:  # the slower of two measurements was disturbed
                    cycles[name].append(max(before, clock()) / rate)
    return tuple(
        Measured(
            name, tuple(rates[name]), statistics.median(cycles[name] or [0]) or None
        )
        for name in scans
    )


def _all_cores(scan: Scan, seconds: float) -> tuple[float, float, int]:
    """Return the rates of one core and of all of them, in turn, and how many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    count = _count_for(scan, 0.1)
    one: list[float] = []
    every: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or not every:
        one.append(_together(scan, count, 1))
        every.append(_together(scan, count, cores))
    return statistics.median(one), statistics.median(every), cores


def _together(scan: Scan, count: int, processes: int) -> float:
    """Return the nonces a second of some processes at once."""
    began = time.perf_counter()
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            try:
                scan(count)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return processes * count / (time.perf_counter() - began)
