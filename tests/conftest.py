"""Shared by all tests: a state folder and an embedded cloud of the tests' own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

# What is ignored in the background of a shell, or under nohup, would be by all that the
# tests start; what is handled, if only by doing nothing, would not.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

BIN = Path(sys.executable).parent
FOREIGN = ("AWS_", "BOTO_", "CND_")


def pytest_addoption(parser: pytest.Parser) -> None:
    what = "also run what buys machines on AWS, for about a cent (tests/live)"
    parser.addoption("--live", action="store_true", help=what)


def clean_environment(state: Path) -> dict[str, str]:
    """Return this environment without anybody's AWS account, and a state of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    nowhere = str(state / "no-such-file")
    return {
        **kept,
        "XDG_STATE_HOME": str(state),
        "XDG_CONFIG_HOME": str(state / "config"),
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "AWS_EC2_METADATA_DISABLED": "true",
        "CND_REPORT": "0",  # drawing takes seconds a run; its own tests ask for it
    }


@dataclass
class Terminal:
    """A user at a prompt: runs the installed programs, with a cloud of their own."""

    state: Path
    environment: dict[str, str]
    folder: Path

    def run(
        self, *words: str, program: str = "cnd", timeout: float = 90.0, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / program, *words],
            cwd=self.folder,
            env={**self.environment, **extra},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def spawn(self, *words: str, program: str = "cnd") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / program, *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def json(self, *words: str, status: int = 0, **extra: str) -> dict[str, Any]:
        """Run a command with --json; check its status; return its object."""
        done = self.run(*words, "--json", timeout=90.0, **extra)
        assert done.returncode == status, done.stderr + done.stdout
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def runs(self) -> list[Path]:
        folder = self.state / "cnd" / "runs"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def live(self) -> list[dict[str, Any]]:
        found = self.json("status")["instances"]
        assert isinstance(found, list)
        return found

    def exports(self) -> dict[str, str]:
        """Return what `local up` tells another program to put in its environment."""
        told = self.run("local", "up").stdout.splitlines()
        lines = [line for line in told if line.startswith("export ")]
        pairs = (line.removeprefix("export ").split("=", 1) for line in lines)
        return {name: value.strip("'") for name, value in pairs}

    def client(self, service: str) -> Any:
        """Return a boto3 client, as another program makes it from the exports."""
        told = self.exports()
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=told["AWS_ENDPOINT_URL"],
            region_name=told["AWS_REGION"],
            aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        )


def eventually(
    condition: Callable[[], object], *, within: float = 20.0, every: float = 0.05
) -> None:
    """Wait until `condition` holds; fail if it does not `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(every)


def process_state(pid: int) -> str:
    """Return the state of a process as ps(1) writes it; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    return process_state(pid) not in ("", "Z")


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def ended(
    process: subprocess.Popen[str], *, within: float = 60.0
) -> tuple[int, str, str]:
    """Wait for a spawned program; return its status, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder whose embedded cloud is gone after the tests."""
    folder = tmp_path_factory.mktemp("state")
    yield folder
    subprocess.run(
        [BIN / "cnd", "local", "down"],
        env=clean_environment(folder),
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )


@pytest.fixture
def terminal(state: Path, tmp_path: Path) -> Iterator[Terminal]:
    """A user in some folder; whatever they left running is terminated afterwards."""
    user = Terminal(state, clean_environment(state), tmp_path)
    before = user.runs()
    yield user
    if user.runs() != before:
        user.run("scram")
