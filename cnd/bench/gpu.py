"""How fast this machine's first GPU searches, and hashcat beside it on the same device.

One rule: both are measured in turn, and a median is compared with a median.  A process
that has called OpenCL cannot use it in children, so the device is measured by a
process of its own: this file as a program.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnd import kernel, pow

SCANNER = Path(pow.__file__).with_name("on_instance") / pow.GPU_SCANNER
PATIENCE = 120.0  # seconds: a driver may take long to start and to compile
RIVAL_PATIENCE = 60.0  # seconds for one run of hashcat
SLICES, SLICE = 5, 0.4  # seconds
TURNS = 3  # of both
MODE = "20710"  # sha256(sha256($pass).$salt): the same three blocks
MOST_TEXT = 160  # characters of a reason


@dataclass(frozen=True)
class GpuBench:
    """What was measured of a GPU; rates in nonces a second."""

    name: str
    rates: tuple[float, ...] = ()
    refused: str = ""  # why it does not search
    hashcat: float | None = None
    hashcat_failed: str = ""  # why there is no rate of hashcat; "": it is not here

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    def to_json(self) -> dict[str, Any]:
        if self.refused:
            return {"refused": self.refused}
        return {
            "name": self.name,
            "slices": len(self.rates),
            "min": round(min(self.rates)),
            "median": round(self.median),
            "max": round(max(self.rates)),
            "hashcat": self.hashcat and round(self.hashcat),
            "hashcat_failed": self.hashcat_failed,
        }

    @property
    def line(self) -> str:
        """The line to read; rates in millions of nonces a second."""
        if self.refused:
            return f"GPU: not used: {self.refused}"
        low, high = min(self.rates) / 1e6, max(self.rates) / 1e6
        line = f"GPU {self.name}: {self.median / 1e6:.2f} M/s ({low:.2f} to {high:.2f})"
        if self.hashcat:
            ratio = self.median / self.hashcat
            line += (
                f"; hashcat on it {self.hashcat / 1e6:.2f} M/s, opencl x {ratio:.2f}"
            )
        if self.hashcat_failed:
            line += f"; hashcat is here and failed: {self.hashcat_failed}"
        return line


def gpu_bench() -> GpuBench:
    """Measure the first GPU and hashcat in turn; the reason where there is none."""
    rates: list[float] = []
    rivals: list[float] = []
    name = failed = ""
    for _ in range(TURNS):
        found = _measured()
        if "refused" in found:
            return GpuBench("", refused=str(found["refused"]))
        name = found["name"]
        rates += found["rates"]
        rate, why = hashcat_rate(is_gpu=found["is_gpu"])
        rivals += [rate] if rate else []
        failed = failed or why
    rival = statistics.median(rivals) if rivals else None
    return GpuBench(name, tuple(rates), hashcat=rival, hashcat_failed=failed)


def _measured() -> dict[str, Any]:
    """Return what this file as a program measures."""
    environment = {**os.environ, "PYTHONPATH": str(Path(pow.__file__).parents[1])}
    command = [sys.executable, "-m", "cnd.bench.gpu"]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"refused": f"gave no answer within {PATIENCE:g} s"}
    except ValueError:
        return {"refused": f"its process failed with status {done.returncode}"}
    return found


def hashcat_rate(*, is_gpu: bool) -> tuple[float | None, str]:
    """Return hashcat's rate on the same kind of device, or why it has none.

    A processor by pocl is a device that hashcat takes only if it is forced.
    """
    path = shutil.which("hashcat")
    if path is None:
        return None, ""
    device = ["-D", "2"] if is_gpu else ["-D", "1", "--force"]
    words = ["-b", "-m", MODE, "--machine-readable", "--quiet", *device]
    try:
        done = subprocess.run(
            [path, *words], capture_output=True, text=True, timeout=RIVAL_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)[:MOST_TEXT]
    if found := re.search(rf"^\d+:{MODE}:.*:(\d+)$", done.stdout, re.M):
        return float(found[1]), ""
    said = (done.stderr + done.stdout).strip().splitlines()
    return None, (said[-1] if said else f"status {done.returncode}")[:MOST_TEXT]


def measure(slices: int = SLICES, seconds: float = SLICE) -> dict[str, Any]:
    """Return the rates of the first device in this process, once it was tested.

    Raises:
        pow.Refused: there is none, or it cannot be used.
    """
    source = Path(kernel.__file__).with_name(pow.GPU_SOURCE)
    opened = pow.open_gpu(str(SCANNER), 0, pow.DEFAULT_BLOCK, 0.0, str(source))
    scanner = opened.make(pow.DEFAULT_BLOCK, pow.HASH_DIGITS, (0,))
    start, rates = pow.TRIAL_START, []
    for _ in range(slices):
        count = max(1, int(opened.rate * seconds))
        began = time.perf_counter()
        scanner.scan(start, 1, count)
        rates.append(count / (time.perf_counter() - began))
        start += count
    return {"name": opened.name, "is_gpu": opened.is_gpu, "rates": rates}


def main() -> None:
    """Print what is measured, or why nothing is, as JSON."""
    out = os.dup(1)
    os.dup2(2, 1)  # drivers print, too
    try:
        found = measure()
    except (pow.Refused, OSError) as reason:
        found = {"refused": str(reason)}
    os.write(out, json.dumps(found).encode())


if __name__ == "__main__":
    main()
