"""A program beside the kernels gives a rate or a reason, if it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.bench.gpu import GpuBench
from cnd.bench.kernels import KernelBench, Measured
from cnd.bench.rivals import Rival, hashcat, openssl

RATE = "echo 1:20710:4294967295:4294967295:48.16:42000000"
REFUSES = """
case "$*" in
  *--force*) {forced} ;;
  *) echo >&2; echo "* Device #1: Not a native Intel OpenCL runtime." >&2; exit 255 ;;
esac
"""
WHY = "Device #1: Not a native Intel OpenCL runtime. (status 255)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_what_is_not_installed_is_not_mentioned(folder: Path) -> None:
    assert hashcat() == openssl() == []


def test_hashcat_is_forced_where_it_refuses_the_device(folder: Path) -> None:
    install(folder, "hashcat", RATE)
    assert hashcat() == [Rival("hashcat -m 20710", 42e6)]
    install(folder, "hashcat", REFUSES.format(forced=RATE))
    assert hashcat() == [Rival("hashcat -m 20710 --force", 42e6)]


def test_what_refuses_to_run_is_named_with_its_own_reason(folder: Path) -> None:
    install(folder, "hashcat", REFUSES.format(forced="exit 1"))
    assert hashcat() == [Rival("hashcat -m 20710", reason=WHY)]
    install(folder, "openssl", "exit 3")
    (found,) = openssl()
    assert found.reason == "it printed nothing (status 3)"
    measured = (Measured("shani", (2e7,), None),)
    gpu = GpuBench("", refused="no driver")
    bench = KernelBench(measured, 2, 4e7, 2e7, gpu, [*hashcat(), found])
    assert f"hashcat -m 20710: is installed and did not run: {WHY}" in bench.text()
    beside = KernelBench(measured, 2, 4e7, 2e7, gpu, [Rival("hashcat", 1e7)]).text()
    assert "hashcat, held on one core: 10.00 M/s; shani on one core x 2.00" in beside
    assert '"failed": {"hashcat -m 20710": "Device' in bench.to_json()
