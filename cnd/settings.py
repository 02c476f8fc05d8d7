"""Options that are left out: from the environment, a file, or their default.

One rule: the command line goes before the environment, the environment before the
files, the files before the default; and every value says where it comes from.

The files, the first that knows an option wins: ``cnd.toml`` in this folder, Fabric's
own configuration under the key ``cnd``, ``$XDG_CONFIG_HOME/cnd/cnd.toml``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnd import pow as worker
from cnd.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "cnd.toml"
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


def sources(fabric: Any) -> list[Source]:
    """Return what the files say, the first to be obeyed first.

    Args:
        fabric: Fabric's configuration, or any mapping.

    Raises:
        UsageError: a file that cannot be read, or that sets what is no option.
    """
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    own = Path(home).expanduser() / "cnd" / FILE
    return [
        _checked(f"./{FILE}", _read(Path(FILE))),
        _checked("fabric.yaml", fabric.get("cnd") or {}),
        _checked(str(own), _read(own)),
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # tomllib's error is a ValueError
        message = f"cannot read {path}: {error}"
        hint = 'a line of it is like region = "eu-west-2"'
        raise UsageError(message, hint=hint) from error
    return found


def _checked(name: str, options: object) -> Source:
    """Return `options`, names with a dash or an underscore, as a source."""
    if not isinstance(options, Mapping):
        message = f"{name}: cnd must be a table of options, not {options!r}"
        raise UsageError(message, hint="for example cnd: {region: eu-west-2}")
    found = {str(key).replace("-", "_"): value for key, value in options.items()}
    for key, value in found.items():
        if key not in DEFAULTS:
            known = ", ".join(DEFAULTS)
            message = f"{name}: no such option: {key!r}"
            raise UsageError(message, hint=f"it may set {known}")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            message = f"{name}: {key} must be text or a number, not {value!r}"
            raise UsageError(message, hint=f'for example {key} = "{DEFAULTS[key]}"')
    return Source(name, {key: str(value) for key, value in found.items()})
