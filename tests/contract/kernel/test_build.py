"""The package as it is built and installed: an sdist, a wheel, a fresh environment."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from cnd.kernel import build
from tests.support.mach_o import ARM64, MACOS, X86_64, mach_o

ROOT = Path(__file__).parents[3]
LIBRARIES = {f"cnd/kernel/{build.library_name(machine)}" for machine in build.TARGETS}

TEMPLATES = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("cnd/**/*.jinja")}

pytestmark = pytest.mark.slow


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(folder: Path, source: Path | str, **environment: str) -> Path:
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder)
    run(*pip, source, **environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, made by the backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("sdist")
    environment = folder / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "hatchling>=1.26")
    script = f"import hatchling.build as b; print(b.build_sdist({str(folder)!r}))"
    subprocess.run([python, "-c", script], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.tar.gz")
    return path


def test_an_sdist_has_the_sources_and_no_library(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"cnd/kernel/{path.name}" for path in build.sources()} <= names
    assert "hatch_build.py" in names
    assert TEMPLATES and names >= TEMPLATES
    assert not LIBRARIES & names


def check_for_macos(library: bytes, *, is_arm: bool) -> None:
    """Check what can be checked of a library for macOS where none can be loaded."""
    found = mach_o(library)
    assert found.processor == (ARM64 if is_arm else X86_64)
    assert (found.is_library, found.platform) == (True, MACOS)
    assert found.oldest == (11, 0)
    assert found.name == "@rpath/libcndpow.dylib"
    assert found.needs == ("/usr/lib/libSystem.B.dylib",)
    assert found.searched == ()
    assert found.offers == {
        *("_cnd_chain", "_cnd_kernel_name", "_cnd_kernel_supported", "_cnd_scan"),
        *("__mh_dylib_header", "___dso_handle"),  # of the linker, in every library
    }
    assert found.asks <= {"_memset", "___memset_chk", "dyld_stub_binder"}
    # Apple's processors run no code without one.
    assert found.is_signed or not is_arm


def test_a_wheel_of_the_sdist_searches_natively_in_a_fresh_environment(
    sdist: Path, tmp_path: Path
) -> None:
    wheel = built(tmp_path, sdist, CND_KERNELS="require")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) >= LIBRARIES | TEMPLATES
        first = {name: archive.read(name) for name in LIBRARIES}
    again = built(tmp_path / "again", sdist, CND_KERNELS="require")
    with zipfile.ZipFile(again) as archive:
        assert {name: archive.read(name) for name in LIBRARIES} == first

    for name, library in first.items():
        assert str(ROOT).encode() not in library and b"/tmp/" not in library
        if name.endswith(".dylib"):
            check_for_macos(library, is_arm="aarch64" in name)

    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)
    script = "import cnd.kernel, cnd.pow; print(cnd.pow.__file__)"
    worker = run(python, "-I", "-c", script).strip()
    events = run(python, "-I", worker, "--difficulty", "2", "--no-syslog")
    started, found = map(json.loads, events.splitlines())
    native = platform.machine() in build.UNITS
    assert (started["kernel"] != "hashlib") == native
    assert found["nonce"] == 116


def test_where_the_kernels_cannot_be_built_the_package_still_installs(
    sdist: Path, tmp_path: Path
) -> None:
    """Without ziglang, as on a platform that it does not support."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    install = (python, "-m", "pip", "install")
    run(*install, "-q", "hatchling>=1.26")
    done = subprocess.run(
        [*install, "-v", "--no-deps", "--no-build-isolation", sdist],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # where pip prints the output of the build
        text=True,
        timeout=600,
    )
    assert "the native kernels cannot be built here: " in done.stdout
    script = "import cnd.pow; print(cnd.pow.choose_kernel('auto').name)"
    assert run(python, "-I", "-c", script).strip() == "hashlib"
