"""Keys: the user's SSH key, and the host key that a run's instances will show.

One rule: a private key is readable by its owner alone, and a host's key is known before
the first connection; no host is trusted on first use.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from cnd.errors import UsageError
from cnd.system import private_files, small_files

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/create-key-pairs.html
KINDS = (Ed25519PrivateKey, RSAPrivateKey)
SHORTEST = 1024  # bits of an RSA key


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
    """Return CND's own key in `folder`, made on first use (mode 0600)."""
    path = folder / "id_ed25519"
    private_files.folder(folder)
    if not path.exists():  # two first runs at once both make one, and use the first
        private_files.write_once(path, generate().private)
    try:
        return _read(path)
    except ValueError as error:
        message = f"{path}, CND's own key, cannot be used: {error}"
        raise UsageError(message, hint="delete it: a new one will be made") from error


def load(path: Path) -> UserKey:
    """Return the unencrypted private key in the user's file `path`.

    Raises:
        UsageError: it is not a private key, needs a passphrase, or is not for EC2.
    """
    try:
        return _read(path)
    except ValueError as error:
        message = f"--key-file {str(path)!r} is not a private key that CND can use"
        hint = "an unencrypted ed25519 key: ssh-keygen -t ed25519 -N ''"
        raise UsageError(message, hint=f"{error}; {hint}") from error


def _read(path: Path) -> UserKey:
    key = private_key(path)
    public = f"{key.get_name()} {key.get_base64()}"
    return UserKey(path, public, key.fingerprint.removeprefix("SHA256:"))


def private_key(path: Path) -> paramiko.PKey:
    """Return the key in a file, in OpenSSH's format, PKCS#1 or PKCS#8.

    The plain key: paramiko's own reader would offer the certificate beside the file as
    well (``-cert.pub``), which an instance of CND does not know.

    Raises:
        ValueError: the file holds no key that EC2 takes; its text is the reason.
    """
    try:
        key = _parsed(small_files.read(path))
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
    if not isinstance(key, KINDS):
        kind = type(key).__name__.removesuffix("PrivateKey").lstrip("_")
        raise ValueError(f"it is a key of the kind {kind}; EC2 takes ed25519 and RSA")
    if isinstance(key, RSAPrivateKey) and key.key_size < SHORTEST:
        raise ValueError(f"it has {key.key_size} bits; EC2 takes {SHORTEST} and more")
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    ).decode()
    of = paramiko.RSAKey if isinstance(key, RSAPrivateKey) else paramiko.Ed25519Key
    return of.from_private_key(io.StringIO(text))


def _parsed(data: bytes) -> object:
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    read = (
        serialization.load_ssh_private_key
        if openssh
        else serialization.load_pem_private_key
    )
    try:
        return read(data, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        if "password" in str(error).lower():  # no class of its own
            raise ValueError("it needs a passphrase") from error
        what = "holds no private key" if data else "is empty"
        raise ValueError(f"the file {what}") from error
