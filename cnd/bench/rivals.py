"""Other programs that compute SHA-256, measured beside the kernels on one core.

One rule: one that is installed gives a rate or a reason; one that is not gives nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PATIENCE = 20.0  # seconds for one attempt of a program
MOST_REASON = 200  # characters
# Its mode 20710, sha256(sha256($pass).$salt), has the same three blocks as a nonce.
HASHCAT = (
    *("hashcat", "-b", "-m", "20710", "--machine-readable", "--quiet", "-D", "1"),
)
# hashcat refuses Debian's OpenCL for processors, which serves this measurement.
ATTEMPTS: tuple[tuple[str, ...], ...] = ((), ("--force",))
OPENSSL = ("openssl", "speed", "-seconds", "1", "-bytes", "16384", "sha256")


@dataclass(frozen=True)
class Rival:
    """What a program reached, or why it reached nothing."""

    name: str
    rate: float = 0.0  # nonces a second, or what amounts to them
    reason: str = ""


def rivals() -> list[Rival]:
    """Measure hashcat and OpenSSL in turn, as far as they are installed."""
    return [*hashcat(), *openssl()]


def hashcat() -> list[Rival]:
    """Measure hashcat; where it refuses the device, again with ``--force``."""
    name, reasons = f"{HASHCAT[0]} {' '.join(HASHCAT[2:4])}", list[str]()
    for more in ATTEMPTS:
        found = _measured(" ".join([name, *more]), [*HASHCAT, *more], _hashcat_rate)
        if not found or found[0].rate:
            return found
        reasons.append(found[0].reason)
    return [Rival(name, reason=reasons[0])]


def openssl() -> list[Rival]:
    """Measure a third of OpenSSL's blocks of SHA-256: a nonce takes three."""
    return _measured("openssl speed, thirds", OPENSSL, _openssl_rate)


def _measured(
    name: str, command: Sequence[str], rate: Callable[[str], float | None]
) -> list[Rival]:
    """Run a program once; return nothing if it is not installed."""
    if (path := shutil.which(command[0])) is None:
        return []
    try:
        done = subprocess.run(
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return [Rival(name, reason=f"no answer within {PATIENCE:.0f} s")]
    except OSError as error:
        return [Rival(name, reason=f"{error.strerror}")]
    if found := rate(done.stdout):
        return [Rival(name, found)]
    return [Rival(name, reason=reason(done.stdout, done.stderr, done.returncode))]


def reason(out: str, err: str, status: int) -> str:
    """Return why a program measured nothing: its own first words, else its status."""
    lines = [line.strip("* ") for line in [*err.splitlines(), *out.splitlines()]]
    said = next((line for line in lines if line), "it printed nothing")
    return f"{said[:MOST_REASON]} (status {status})"


def _hashcat_rate(text: str) -> float | None:
    found = re.search(r"^\d+:20710:.*:(\d+)$", text, re.M)
    return float(found[1]) if found else None


def _openssl_rate(text: str) -> float | None:
    found = re.search(r"^sha256\s+([\d.]+)k", text, re.M)
    return 1000 * float(found[1]) / 64 / 3 if found else None
