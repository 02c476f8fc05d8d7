"""User data, parsed as cloud-init does: bytes in, frozen values out.

One rule: pure functions; no user data can make a host fail to boot.  A part that is
not understood becomes a line of the host's syslog.
Source: https://cloudinit.readthedocs.io/en/latest/reference/modules.html
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import shlex
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

_DECODERS = {
    "b64": ("b64",),
    "base64": ("b64",),
    "gz": ("gz",),
    "gzip": ("gz",),
    "gz+base64": ("b64", "gz"),
    "gzip+base64": ("b64", "gz"),
    "gz+b64": ("b64", "gz"),
    "gzip+b64": ("b64", "gz"),
}


@dataclass(frozen=True)
class File:
    """An entry of `write_files`."""

    path: str
    content: bytes
    permissions: int
    append: bool
    encoded: bool = False  # its bytes must not be changed


@dataclass(frozen=True)
class UserData:
    """What a host does at its first boot, in this order."""

    bootcmd: str = ""  # a shell script, before everything else
    host_key: str = ""  # PEM, private; empty: the host makes one
    authorized_keys: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    runcmd: str = ""  # a shell script, when SSH already answers
    script: str = ""  # user data that is itself a script, last
    remarks: tuple[str, ...] = ()  # messages about ignored parts, for the syslog


def parse(encoded: str) -> UserData:
    """Read user data as EC2 stores it: base64, of text or of gzip.  Never raises."""
    try:
        raw = base64.b64decode(encoded, validate=False)
        if raw.startswith(b"\x1f\x8b"):
            raw = gzip.decompress(raw)
        text = raw.decode()
    except (ValueError, OSError, EOFError, zlib.error) as error:
        return UserData(remarks=(f"Failed reading user data: {error}",))
    if not text.strip():
        return UserData()
    if text.startswith("#!"):
        return UserData(script=text)
    if text.startswith("#cloud-config"):
        return _cloud_config(text)
    first = text.splitlines()[0]
    return UserData(remarks=(f"Unhandled userdata starting {first[:40]!r}",))


def shell_script(commands: Iterable[object]) -> str:
    """Join the entries of `bootcmd` or `runcmd` into one script, as cloud-init does.

    A string is a line of shell code; a list is the words of one command.
    """
    lines = [
        shlex.join(str(word) for word in entry)
        if isinstance(entry, list)
        else str(entry)
        for entry in commands
    ]
    return "#!/bin/sh\n" + "".join(line + "\n" for line in lines) if lines else ""


def _cloud_config(text: str) -> UserData:
    try:
        config = _loaded(text)
    except yaml.YAMLError as error:
        flat = " ".join(str(error).split())
        return UserData(remarks=(f"Failed loading yaml blob. {flat}",))
    if config is None:
        return UserData()
    if not isinstance(config, dict):
        kind = type(config).__name__
        return UserData(remarks=(f"Failed loading yaml blob. A {kind}, not a map",))
    remarks: list[str] = []
    keys = _typed(config, "ssh_keys", dict, remarks)
    return UserData(
        bootcmd=shell_script(_typed(config, "bootcmd", list, remarks)),
        host_key=str(keys.get("ed25519_private", "")),
        authorized_keys=tuple(
            str(key) for key in _typed(config, "ssh_authorized_keys", list, remarks)
        ),
        files=tuple(_files(_typed(config, "write_files", list, remarks), remarks)),
        runcmd=shell_script(_typed(config, "runcmd", list, remarks)),
        remarks=(*remarks, *(f"Unknown key ignored: {key}" for key in config)),
    )


def _loaded(text: str) -> Any:
    """Read YAML; if it is JSON, that takes a hundredth of the time."""
    try:
        return json.loads(text.partition("\n")[2])
    except ValueError:
        return yaml.safe_load(text)


def _typed(config: dict[Any, Any], key: str, kind: type, remarks: list[str]) -> Any:
    """Remove `key` from `config` and return its value; empty if of a wrong type."""
    value = config.pop(key, None)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        remarks.append(f"{key} is not a {kind.__name__}, ignored")
        return kind()
    return value


def _files(entries: list[Any], remarks: list[str]) -> Iterable[File]:
    for entry in entries:
        try:
            yield File(
                path=str(entry["path"]),
                content=_decoded(entry.get("content") or "", entry.get("encoding")),
                permissions=int(str(entry.get("permissions", "0644")), 8),
                append=bool(entry.get("append", False)),
                encoded=bool(entry.get("encoding")),
            )
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            OSError,
            EOFError,
            zlib.error,
        ) as error:
            remarks.append(f"write_files entry ignored: {error!r}")


def _decoded(content: str | bytes, encoding: str | None) -> bytes:
    data = content if isinstance(content, bytes) else str(content).encode()
    for step in _DECODERS.get(str(encoding or "").lower(), ()):
        data = gzip.decompress(data) if step == "gz" else _unbase64(data)
    return data


def _unbase64(data: bytes) -> bytes:
    try:
        return base64.b64decode(data)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
