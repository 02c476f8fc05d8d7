"""Keys: the user's SSH key, and the host key that a run's machines will show.

One rule: a private key is readable by its owner alone, and a host is known before
the first connection; nobody is trusted on first use.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cnd import private
from cnd.errors import UsageError


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's formats."""

    private: str = field(repr=False)  # PEM
    public: str  # "ssh-ed25519 AAAA…"


def generate() -> KeyPair:
    """Return a new ed25519 key pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return KeyPair(private.decode(), public.decode())


@dataclass(frozen=True)
class UserKey:
    """The key that CND logs in with."""

    path: Path  # of the private key
    public: str  # "ssh-ed25519 AAAA…"
    fingerprint: str  # SHA-256 in hex: names the key pair on AWS


def user_key(folder: Path) -> UserKey:
    """Return CND's own key under `folder`, made on first use (mode 0600)."""
    path = folder / "id_ed25519"
    private.folder(folder)
    if not path.exists():
        _install(path, generate().private)
    return load(path)


def load(path: Path) -> UserKey:
    """Return the unencrypted private key in the file `path`.

    Raises:
        UsageError: it is not a private key, or one that needs a passphrase.
    """
    try:
        key = paramiko.PKey.from_path(path)
    except (paramiko.SSHException, ValueError, TypeError, OSError) as error:
        message = f"--key-file {str(path)!r} is not a private key that CND can use"
        hint = "an unencrypted ed25519 key: ssh-keygen -t ed25519 -N ''"
        raise UsageError(message, hint=f"{error}; {hint}") from error
    public = f"{key.get_name()} {key.get_base64()}"
    return UserKey(path, public, key.fingerprint.removeprefix("SHA256:"))


def _install(path: Path, text: str) -> None:
    """Write a file that never exists half or readable by others.

    Two first runs at once both make a key; the first link wins, and both use it.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
