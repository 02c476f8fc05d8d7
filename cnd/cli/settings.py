"""Options that are left out: from the environment, a file, or their default.

One rule: the command line goes before the environment, the environment before the
files, the files before the default; and every value says where it comes from.

The files, the first that knows an option wins: ``cnd.toml`` in this folder, the key
``cnd`` of ``fabric.yaml`` there (under `fab`: of Fabric's whole configuration),
``$XDG_CONFIG_HOME/cnd/cnd.toml``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoke.util import yaml  # type: ignore[attr-defined]

from cnd import pow as worker
from cnd.errors import UsageError
from cnd.system import folders, small_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "cnd.toml"
FABRIC = "fabric.yaml"
MOST_SHOWN = 60  # characters of what is wrong
# What the parsers of both raise for what is not theirs; both have more than one way.
SYNTAX = (ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError, IndexError)
# What goes before what, for people.
ORDER = (
    "the command line > environment (CND_...) > ./cnd.toml > fabric.yaml > "
    "~/.config/cnd/cnd.toml > default"
)
DEFAULTS = {
    "region": "",  # as boto3 is configured
    "instance_type": "t3.micro",
    "image": "ubuntu",
    "block": worker.DEFAULT_BLOCK,
    "budget": "",  # none
}


@dataclass(frozen=True)
class Setting:
    """The value of an option, as text, and where it comes from."""

    name: str
    value: str
    source: str


@dataclass(frozen=True)
class Source:
    """A file, or what stands for one, and the options in it."""

    name: str
    options: Mapping[str, str]


def variable(name: str) -> str:
    """Return the environment variable of an option: ``CND_INSTANCE_TYPE``."""
    return f"CND_{name.upper()}"


def setting(name: str, given: str, sources: Sequence[Source]) -> Setting:
    """Return the value of option `name`; `given` is what the command line says."""
    if given:
        return Setting(name, given, "the command line")
    if value := os.environ.get(variable(name)):
        return Setting(name, value, variable(name))
    for source in sources:
        if name in source.options:
            return Setting(name, source.options[name], source.name)
    return Setting(name, DEFAULTS[name], "default")


def sources(
    fabric: Mapping[str, Any] | None,
    *,
    pass_over: Callable[[UsageError], None] | None = None,
) -> list[Source]:
    """Return what the files say, the first to be obeyed first.

    Args:
        fabric: Fabric's configuration; None: `FABRIC` in this folder alone.
        pass_over: takes what is wrong with a file, which is left out then.

    Raises:
        UsageError: a file that cannot be read, or that sets what is no option; only
            without `pass_over`.
    """
    folder = folders.base(folders.CONFIG)
    own = folder / "cnd" / FILE if folder else None
    readers: list[tuple[str, Callable[[], object]]] = [
        (f"./{FILE}", lambda: _toml(Path(FILE))),
        (FABRIC, lambda: (_yaml() if fabric is None else fabric).get("cnd") or {}),
        (str(own), lambda: _toml(own) if own else {}),
    ]
    found = []
    for name, read in readers:
        try:
            found.append(_checked(name, read()))
        except UsageError as error:
            if pass_over is None:
                raise
            pass_over(error)
    return found


def _toml(path: Path) -> Mapping[str, Any]:
    with _readable(path, 'a line of it is like region = "eu-west-2"'):
        return tomllib.loads(_text(path))


def _yaml() -> Mapping[str, Any]:
    with _readable(Path(FABRIC), "for example cnd: {region: eu-west-2}"):
        found = yaml.safe_load(_text(Path(FABRIC)))  # type: ignore[no-untyped-call]
    return found if isinstance(found, Mapping) else {}


def _text(path: Path) -> str:
    """Return what is in a file, or "" if there is none.  Some editors write a BOM."""
    try:
        return small_files.read(path).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ""


@contextlib.contextmanager
def _readable(path: Path, hint: str) -> Iterator[None]:
    """Say of a file that cannot be read which one it is."""
    try:
        yield
    except (OSError, RecursionError, *SYNTAX) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, PermissionError):
            hint = "make it readable to you, or go to another folder"
        raise UsageError(
            f"cannot read {path}: {' '.join(why.split())}", hint=hint
        ) from error


def _checked(name: str, options: object) -> Source:
    """Return `options`, names with a dash or an underscore, as a source."""
    if not isinstance(options, Mapping):
        message = f"{name}: cnd must be a table of options, not {_short(options)}"
        raise UsageError(message, hint="for example cnd: {region: eu-west-2}")
    found = {str(key).replace("-", "_"): value for key, value in options.items()}
    for key, value in found.items():
        if key not in DEFAULTS:
            known = ", ".join(DEFAULTS)
            message = f"{name}: no such option: {_short(key)}"
            raise UsageError(message, hint=f"it may set {known}")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            message = f"{name}: {key} must be text or a number, not {_short(value)}"
            raise UsageError(message, hint=f'for example {key} = "{DEFAULTS[key]}"')
    return Source(name, {key: _word(value) for key, value in found.items()})


def _word(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python writes
        return "inf"


def _short(value: object) -> str:
    try:
        told = repr(value)
    except (ValueError, RecursionError):
        return f"such a {type(value).__name__}"
    return told if len(told) <= MOST_SHOWN else f"{told[: MOST_SHOWN - 3]}..."
