"""The build hook: compiles the native kernels while the package is built.

ziglang, a build requirement, is a C compiler for every target, so the machine needs
none, and one wheel carries the libraries of both architectures, for Linux and macOS.
An installation in a checkout on Linux does not build those for macOS: it has no use
for them.  The hook's one rule: it never makes an installation fail.  Where the kernels
cannot be built it says so, and the worker searches with hashlib.

The environment variable CND_KERNELS decides when that is not wanted: `require` makes
a failure to build one, `skip` builds none.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

EDITABLE = "editable"  # hatchling's name of what `pip install -e` builds


class KernelHook(BuildHookInterface[Any]):
    """Puts the libraries into cnd/kernel/ and into the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build what is missing or out of date, before the wheel is put together."""
        wanted = os.environ.get("CND_KERNELS", "")
        if wanted == "skip":
            return
        try:
            libraries = self._libraries(everywhere=version != EDITABLE)
        except (OSError, subprocess.CalledProcessError) as error:
            if wanted == "require":
                raise
            reason = f"{error}\n{getattr(error, 'stderr', None) or ''}".strip()
            self.app.display_warning(
                f"the native kernels cannot be built here: {reason}\n"
                "the worker will search with hashlib, some twenty times slower"
            )
            return
        build_data["artifacts"] += [f"/cnd/kernel/{path.name}" for path in libraries]

    def _libraries(self, *, everywhere: bool) -> list[Path]:
        """Return the libraries' paths, once they are up to date.

        Args:
            everywhere: also those of macOS, which no instance needs.
        """
        folder = Path(self.root, "cnd", "kernel")
        rules = runpy.run_path(str(folder / "build.py"))
        every = {folder / rules["library_name"](m): m for m in rules["TARGETS"]}
        wide = everywhere or sys.platform == "darwin"
        libraries = [p for p, m in every.items() if wide or m in rules["UNITS"]]
        stamp = folder / rules["STAMP"]
        wanted = f"{rules['source_digest']()} ziglang {_zig_version()}\n"
        there = all(path.exists() for path in (stamp, *libraries))
        if there and stamp.read_text() == wanted:
            return libraries
        self.app.display_info("building the native kernels")
        for path in (stamp, *every):
            path.unlink(missing_ok=True)  # never the new ones beside old ones

        def build(library: Path) -> None:
            target = rules["TARGETS"][every[library]]
            command = (sys.executable, "-m", "ziglang", "cc", "-target", target)
            compiler = rules["Compiler"](command, is_clang=True)
            rules["build"](every[library], compiler, library)

        with _own_cache(), ThreadPoolExecutor() as pool:
            list(pool.map(build, libraries))
        stamp.write_text(wanted)
        return libraries


def _zig_version() -> str:
    command = [sys.executable, "-m", "ziglang", "version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    """Give zig a cache that is gone afterwards, not one in the user's home."""
    with tempfile.TemporaryDirectory() as cache:
        names = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, cache))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
