"""What `bench kernel` says of a GPU, and of hashcat beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.bench.gpu import GpuBench, hashcat_rate

MEASURED = GpuBench("Tesla T4", (0.9e9, 1e9, 1.1e9))


def test_the_line_compares_medians() -> None:
    line = GpuBench("Tesla T4", MEASURED.rates, hashcat=0.8e9).line
    assert line == (
        "GPU Tesla T4: 1000.00 M/s (900.00 to 1100.00); "
        "hashcat on it 800.00 M/s, opencl x 1.25"
    )


def test_a_rival_that_failed_is_named_and_one_that_is_not_here_is_not() -> None:
    failed = GpuBench("Tesla T4", MEASURED.rates, hashcat_failed="no devices")
    assert failed.line.endswith("; hashcat is here and failed: no devices")
    assert "hashcat" not in MEASURED.line


def test_a_gpu_that_cannot_be_used_has_its_reason() -> None:
    refused = GpuBench("", refused="no driver: there is no library of OpenCL")
    assert refused.line.startswith("GPU: not used: no driver")
    assert refused.to_json() == {"refused": refused.refused}


@pytest.mark.parametrize(
    ("script", "rate", "why"),
    [
        ("echo '1:20710:1:1:70.5:28500000'", 28.5e6, ""),
        ("echo 'No devices found/left.' >&2; exit 255", None, "No devices found/left."),
        ("exit 3", None, "status 3"),
    ],
)
def test_hashcats_rate_or_the_reason_why_it_has_none(
    script: str,
    rate: float | None,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / "hashcat"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hashcat_rate(is_gpu=True) == (rate, why)
    program.unlink()
    assert hashcat_rate(is_gpu=True) == (None, "")
