"""Where the absolute paths of a shell command lie in a host's own file tree.

One rule: text in, text out.  Commands on hosts of the local cloud are not
chrooted (that takes root), so a command written for a real machine has its paths
rewritten before it runs: `/run/x` becomes `TREE/run/x`, and a program that the hosts
replace (`/usr/bin/systemctl`) becomes the host's own.

It works on text, not on shell syntax, and rewrites rather too much than too little.
It cannot rewrite a path that a command builds as it runs (`cd / && rm -r etc`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

# Folders in the host's tree; the others (/usr, /bin, /dev, /proc) are the machine's.
OWN_FOLDERS = (
    "boot",
    "etc",
    "home",
    "media",
    "mnt",
    "opt",
    "root",
    "run",
    "srv",
    "tmp",
    "usr/local",
    "var",
)
_PROGRAM = re.compile(r"/(?:usr/)?s?bin/([^/]+)\Z")
# The file system root under another name.
_ALIAS = re.compile(r"/proc/(?:self|thread-self|\d+)/(?:root|cwd)(?=/)")
_WORD = re.compile(r"/[\w.+@%~/-]*|~[a-z]+(?![\w.+@%-])")
# A slash after one of these continues a relative path: `a/etc`, `*/etc`.
_GOES_ON = re.compile(r"[\w.~*?\]+-]\Z")
# ... as after a variable, in quotes or not: `$X/etc`, `"${X}"/etc`.
_AFTER_VARIABLE = re.compile(r"""\$(?:\w+|\{[^{}]*\})["']?\Z""")
# ... unless the letter is an option's (`-C/etc`) or the dash a default's (`${X:-/etc`).
_AFTER_OPTION = re.compile(r"(?:(?:\A|\s)-\w|\{\w+:?-)\Z")
_LOOK_BACK = 200  # characters, enough for the patterns above

# Characters that mean nothing to a shell: a tree's name may have no others.
SAFE_TREE = re.compile(r"[\w.+@%/-]+", re.ASCII)


def map_paths(text: str, tree: str, programs: Collection[str] = ()) -> str:
    """Return `text` with the absolute paths moved below `tree`.

    Doing it twice changes nothing more.

    Args:
        text: a shell command, script, unit file or the like.
        tree: absolute path of the host's file tree, of SAFE_TREE characters.
        programs: names of the programs in the host's own /bin.
    """

    def replace(match: re.Match[str]) -> str:
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        if _is_relative(before, match[0]):
            return match[0]
        return _mapped(match[0], tree, programs)

    return _WORD.sub(replace, text)


def in_tree(path: str, tree: str) -> str:
    """Return where the absolute path `path` lies; `..` cannot lead outside."""
    if path == tree or path.startswith(tree + "/"):
        return path
    return tree + "/" + posixpath.normpath("/" + path).lstrip("/")


def _is_relative(before: str, word: str) -> bool:
    """Tell whether `word` continues the text before it, or is a part of a URL."""
    if _AFTER_OPTION.search(before):
        return False
    if before.endswith(":") and re.match("//[^/]", word):
        return True
    return bool(_GOES_ON.search(before) or _AFTER_VARIABLE.search(before))


def _mapped(word: str, tree: str, programs: Collection[str]) -> str:
    if word.startswith("~"):
        home = "/root" if word == "~root" else f"/home/{word[1:]}"
        return tree + home
    if word == tree or word.startswith(tree + "/"):
        return word
    path = "/" + posixpath.normpath(_ALIAS.sub("", word)).lstrip("/")
    program = _PROGRAM.match(path)
    if program and program[1] in programs:
        return f"{tree}/bin/{program[1]}"
    if any(path == f"/{own}" or path.startswith(f"/{own}/") for own in OWN_FOLDERS):
        return tree + path + ("/" if word.endswith("/") else "")
    return word
