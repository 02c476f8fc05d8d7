"""Where the user's files are: the folders of the XDG Base Directory Specification.

One rule: a folder that is not known is not guessed, and a relative one is not taken:
its meaning would depend on the working folder.
"""

from __future__ import annotations

import getpass
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from cnd.errors import UsageError

STATE, CONFIG, RUNTIME = "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"
DEFAULTS = {STATE: ".local/state", CONFIG: ".config"}  # in the home folder


def base(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder that the variable `name` means; None where it is not known.

    "If an implementation encounters a relative path ... it should consider the path
    invalid and ignore it" (https://specifications.freedesktop.org/basedir/latest/).
    """
    if os.path.isabs(given := environ.get(name, "")):
        return Path(given)
    found = home(environ) if name in DEFAULTS else None
    return found / DEFAULTS[name] if found else None


def home(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the user's home folder, or None: a uid need not have one."""
    if os.path.isabs(given := environ.get("HOME", "")):
        return Path(given)
    try:
        found = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None
    return Path(found) if os.path.isabs(found) else None


def state_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return ``$XDG_STATE_HOME/cnd`` (default ``~/.local/state/cnd``).

    Raises:
        UsageError: this user has no home folder, and no other is named.
    """
    if (folder := base(STATE, environ)) is None:
        message = f"HOME is not set, and user {os.getuid()} has no entry with a home"
        hint = f"set HOME, or {STATE} to a folder for what CND keeps of its runs"
        raise UsageError(message, hint=hint)
    return folder / "cnd"


def name_user() -> None:
    """Name a user without an entry in the password database by its number.

    Libraries ask for the name where it does not matter, and fail where there is none.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError: Python 3.13 and later
        os.environ["LOGNAME"] = str(os.getuid())


def expanded(text: str) -> Path:
    """Return `text` as a path, with ``~`` as the shell has it, where that is known."""
    # `Path.expanduser` raises RuntimeError where there is no such home.
    return Path(os.path.expanduser(text))


def above_package() -> Path:
    """Return the folder in which a child process finds the package `cnd`."""
    return Path(__file__).resolve().parents[2]
