"""The imports of `cnd`, module by module and folder by folder.

`python -m tests.support.imports` prints the folders from the top, and what they import.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[2] / "cnd"

# The folders and single files of `cnd`, from the top: each imports from lower lines
# only, and never from its own line.  `docs/architecture.md` says what each is for.
LEVELS = (
    ("__main__",),
    ("tasks",),
    ("cli",),
    ("bench",),
    ("view",),
    ("planning", "run"),
    ("provision",),
    ("transport",),
    ("ec2", "sqs", "s3logs"),
    ("cloud",),
    ("model",),
    ("on_instance",),
    ("local.api",),
    ("local",),
    ("local.host",),
    ("kernel", "pow", "system"),
    ("errors", "__init__"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


@functools.cache
def files() -> dict[str, Path]:
    """Return the file of every module of `cnd` by its name below it, as `run.job`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "__init__"
        found[name] = path
    return found


@functools.cache
def modules() -> dict[str, frozenset[str]]:
    """Return every module of `cnd` by its name, and what it imports.

    To parse them all takes seconds: no test module calls this when it is imported.
    """
    return {name: imported(path) for name, path in files().items()}


def room(module: str) -> str:
    """Return the folder of a module; its own name where it stands in none."""
    parts = module.split(".")
    if parts[0] == "local" and parts[1:2] in (["api"], ["host"]):
        return ".".join(parts[:2])
    return parts[0]


def imported(path: Path) -> frozenset[str]:
    """Return the dotted names that a module imports, in whatever way."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@functools.cache
def between_modules() -> frozenset[tuple[str, str]]:
    """Return (importer, imported) for all modules of `cnd`."""
    pairs = ((name, each) for name, some in modules().items() for each in some)
    inside = ((name, each) for name, each in pairs if (each + ".").startswith("cnd."))
    named = ((name, each[4:] or "__init__") for name, each in inside)
    return frozenset((a, b) for a, b in named if b in modules() and a != b)


@functools.cache
def between_folders() -> frozenset[tuple[str, str]]:
    """Return the same for folders; what imports `cnd` itself asks for its version."""
    found = {(room(a), room(b)) for a, b in between_modules()}
    return frozenset((a, b) for a, b in found if a != b and b != "__init__")


def is_below(importer: str, imported: str) -> bool:
    return LEVEL[imported] > LEVEL[importer]


def main() -> None:
    arrows = between_folders()
    for each in LEVEL:
        below = sorted((b for a, b in arrows if a == each), key=LEVEL.__getitem__)
        print(f"{each:<12} {' '.join(below) or '-'}")
    upward = sum(not is_below(*pair) for pair in arrows)
    print(f"{len(LEVEL)} folders and files, {len(arrows)} arrows, {upward} upward")


if __name__ == "__main__":
    main()
