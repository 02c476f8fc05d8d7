"""Options that are left out: from the environment, a file, or their default.

One rule: the command line goes before the environment, the environment before the
files, the files before the default; and every value says where it comes from.

The files, of which the first that sets an option wins: ``cnd.toml`` in this folder,
the key ``cnd`` of ``fabric.yaml`` there (under `fab`: of Fabric's whole configuration),
``$XDG_CONFIG_HOME/cnd/cnd.toml``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fabric
from invoke.util import yaml  # type: ignore[attr-defined]

from cnd.errors import UsageError
from cnd.model.events import printable_line
from cnd.model.plan import DEFAULT_BLOCK
from cnd.system import folders, small_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "cnd.toml"
FABRIC = "fabric.yaml"
MOST_SHOWN = 60  # characters of what is wrong
# What the parsers of TOML and YAML raise for a text that is neither.
SYNTAX = (ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError, IndexError)
# The order of the sources, as `cnd config` prints it.
ORDER = (
    "the command line > environment (CND_...) > ./cnd.toml > fabric.yaml > "
    "~/.config/cnd/cnd.toml > default"
)
DEFAULTS = {
    "region": "",  # as boto3 is configured
    "instance_type": "t3.micro",
    "image": "auto",  # by the instance type
    "block": DEFAULT_BLOCK,
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
    """A file, or Fabric's configuration, and the options in it."""

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
    """Return the files and the options in them, the first to apply first.

    Args:
        fabric: Fabric's configuration; None: only `FABRIC` in this folder.
        pass_over: takes the error of a file that is left out for it.

    Raises:
        UsageError: a file cannot be read, or sets an unknown option; only without
            `pass_over`.
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
    """Raise a `UsageError` that names the file, where it cannot be read."""
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
        text = repr(value)
    except (ValueError, RecursionError):
        return f"such a {type(value).__name__}"
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


class Config(fabric.Config):  # type: ignore[misc]
    """Fabric's configuration without the user's files and variables.

    What Fabric finds by itself may be code (``fabric.py`` in this folder), meant for
    other programs, or broken; no command of CND needs any of it.
    """

    def _nothing(self, *_: object, **__: object) -> None:
        """Load nothing."""

    load_system = load_user = load_project = load_runtime = _nothing
    load_base_conf_files = load_shell_env = load_ssh_config = _nothing


def files_of(context: Any, *, despite: bool = False) -> list[Source]:
    """Return what files say about options; with `despite`, those that can be read.

    Raises:
        UsageError: a file cannot be read, and `despite` is False.
    """

    def pass_over(error: UsageError) -> None:
        print(f"cnd: {error}: passed over, with all that it sets", file=sys.stderr)

    own = isinstance(context.config, Config)
    report = pass_over if despite else None
    return sources(None if own else context.config, pass_over=report)


def settled(
    names: Iterable[str], given: Mapping[str, object], files: Sequence[Source]
) -> dict[str, str]:
    """Return the values of options that may stand in files; name those files on stderr.

    Args:
        names: of options in `DEFAULTS`.
        given: what the command line says.
    """
    found = [setting(name, str(given.get(name) or ""), files) for name in names]
    for line in _obeyed(found, files):
        print(line, file=sys.stderr)
    return {each.name: each.value for each in found}


def _obeyed(found: Iterable[Setting], files: Iterable[Source]) -> Iterator[str]:
    """Yield a line for each file that sets options."""
    for name in (file.name for file in files):
        values = {each.name: each.value for each in found if each.source == name}
        if values:
            each = (f"{k} = {v[:MOST_SHOWN]}" for k, v in sorted(values.items()))
            yield printable_line(f"{name} sets {', '.join(each)}")
