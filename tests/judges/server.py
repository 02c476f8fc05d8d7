"""LocalStack, in host mode: S3 and SQS by other authors, who verify signatures.

It has a virtual environment of its own, as it wants other versions of what CND uses,
made once in the user's cache folder; or that whose Python `CND_JUDGES_PYTHON` names.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import eventually

VERSION = "4.9.2"
# Newer ones of the last three have ceased to be what this version calls.  MinIO's
# library makes the one judgement that LocalStack leaves out: of a form's signature.
PACKAGES = (
    f"localstack-core[base-runtime]=={VERSION}",
    "minio==7.2.20",
    "moto-ext==5.1.12.post22",
    "cbor2==5.7.0",
    "pyopenssl==25.3.0",
    "service-identity==24.2.0",
)
PYTHON = "CND_JUDGES_PYTHON"
INSTALL = 900.0  # seconds to install it; 240 MB
START = 120.0  # seconds to start: the first time it compiles itself


class Missing(Exception):
    """There is no LocalStack here; the text says why."""


def interpreter() -> Path:
    """Return a Python that has LocalStack, installing it if need be; or `Missing`."""
    if named := os.environ.get(PYTHON):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(cache, "cnd-tests", f"localstack-{VERSION}")
    python, whole = folder / "bin" / "python", folder / "whole"
    if whole.exists():
        return python
    for words in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "-q", *PACKAGES],
    ):
        try:
            subprocess.run(
                words, check=True, capture_output=True, text=True, timeout=INSTALL
            )
        except subprocess.CalledProcessError as error:
            told = error.stderr.strip().splitlines()
            raise Missing(f"it cannot be installed: {told[-1:]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Missing(f"it cannot be installed: {error}") from error
    whole.touch()
    return python


@dataclass
class LocalStack:
    """A server that runs until `close`."""

    url: str
    process: subprocess.Popen[bytes]

    @classmethod
    def started(
        cls, python: Path, folder: Path, key: str, secret: str, account: str
    ) -> LocalStack:
        """Start one that keeps its files in `folder`, and knows an account's key."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder),
            "JUDGE_ACCESS_KEY": key,
            "JUDGE_SECRET_KEY": secret,
            "JUDGE_ACCOUNT": account,
            "S3_SKIP_SIGNATURE_VALIDATION": "0",
            "GATEWAY_LISTEN": place,
            "LOCALSTACK_HOST": place,
            "SQS_ENDPOINT_STRATEGY": "path",
            "SERVICES": "s3,sqs",
            "STRICT_SERVICE_LOADING": "1",
            # It is to call no other server.
            **{"DISABLE_EVENTS": "1", "SKIP_SSL_CERT_DOWNLOAD": "1"},
            **{"DNS_ADDRESS": "0", "NO_PROXY": "*"},
        }
        log = folder / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [python, Path(__file__).with_name("serve.py")],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        found = cls(f"http://{place}", process)
        try:
            eventually(found.answers, within=START, every=0.2, tell=log.read_text)
        except BaseException:
            found.close()
            raise
        return found

    def answers(self) -> bool:
        assert self.process.poll() is None, "it ended"
        try:
            urllib.request.urlopen(f"{self.url}/_localstack/health", timeout=5).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)
