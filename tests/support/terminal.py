"""A user at a prompt, with a state folder and a local cloud of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from cnd import local
from cnd.local import Endpoint, environment, files
from tests.support import aws
from tests.support.forking import (
    CLOUD,
    ForkedProcess,
    Process,
    begin_cloud,
    can_fork,
)

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]

FOREIGN = ("AWS_", "BOTO_", "CND_")
GONE = "terminated"
ALIVE = ("pending", "running", "shutting-down", "stopping", "stopped")
# How long a cloud of the tests lists what is gone: each instance costs a millisecond of
# every look at all of them, and hundreds come and go.
MEMORY_SECONDS = 60
# Nonces a second of each host of a paced cloud.  Four that search so take a tenth of a
# core; at full speed they would take all that there is, from the tests beside.
RATE = 20_000


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
        "CND_LOCAL_MEMORY_SECONDS": str(MEMORY_SECONDS),
        "CND_REPORT": "0",  # drawing takes seconds a run; its own tests ask for it
    }


def paced_environment(state: Path) -> dict[str, str]:
    """Return the same, for a local cloud whose hosts are held to `RATE`."""
    return {**clean_environment(state), "CND_LOCAL_RATE": str(RATE)}


@dataclass
class Terminal:
    """A user at a prompt: runs the installed programs, with a cloud of their own.

    Each command is a process of its own.  `cnd` and `fab` are forked from one that has
    imported them (`tests/support/forking.py`), unless `forks` is False.
    """

    state: Path
    environment: dict[str, str]
    folder: Path
    forks: bool = True

    def run(
        self, *words: str, program: str = "cnd", timeout: float = 240.0, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        process = self._begun(program, words, {**self.environment, **extra})
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode is not None
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def call(
        self, *words: str | bytes, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `cnd` in this process: its words in, status, stdout and stderr out.

        For commands that start nothing: it saves the third of a second of computing
        that it takes to start Python and to load what CND needs.
        """
        from cnd import tasks  # here: it takes a third of a second to import

        argv = ["cnd", *(os.fsdecode(word) for word in words)]
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        status = 0
        with (
            _within({**self.environment, **extra}, self.folder, argv),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                tasks.program().run()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
        told = []
        for stream in (out, err):
            stream.seek(0)
            told.append(stream.read())
        return subprocess.CompletedProcess(argv, status, *told)

    def spawn(self, *words: str, program: str = "cnd") -> Process:
        return self._begun(program, words, self.environment)

    def _begun(
        self, program: str, words: Sequence[str], environment: dict[str, str]
    ) -> Process:
        """Return a command that has begun, in a session of its own."""
        if self.forks and can_fork(program, environment):
            return ForkedProcess([str(BIN / program), *words], self.folder, environment)
        return subprocess.Popen(
            [BIN / program, *words],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def json(self, *words: str, status: int = 0, **extra: str) -> dict[str, Any]:
        """Run a command with --json; check its status; return its object."""
        return _object(self.run(*words, "--json", timeout=240.0, **extra), status)

    def ask(self, *words: str, status: int = 0, **extra: str) -> dict[str, Any]:
        """Do the same in this process, with a command that only looks."""
        return _object(self.call(*words, "--json", **extra), status)

    def runs(self) -> list[Path]:
        folder = self.state / "cnd" / "runs"
        try:
            return [folder / name for name in sorted(os.listdir(folder))]
        except FileNotFoundError:
            return []

    def cloud(self) -> Endpoint:
        """Return the local cloud, which is up from now on."""
        folder = self.state / "cnd" / "local"
        if not (folder.is_dir() and files.is_alive(folder)):
            if self.forks and can_fork(CLOUD, self.environment):
                with _within(self.environment, self.folder, sys.argv):
                    return local.up(begin=begin_cloud)
            done = self.run("local", "up")
            assert done.returncode == 0, done.stderr
        record = files.read_endpoint(folder)
        assert record is not None
        return Endpoint(**record, folder=folder)

    def exports(self) -> dict[str, str]:
        """Return what `local up` tells another program to put in its environment."""
        return environment(self.cloud())

    def client(self, service: str, region: str = "") -> Any:
        """Return a boto3 client, as another program makes it from the exports."""
        return aws.client(self.cloud(), service, region)

    def instances(
        self, region: str = "", states: Sequence[str] = (*ALIVE, GONE)
    ) -> list[dict[str, Any]]:
        """Return what the cloud lists in these states: id, run and state."""
        return self._listed(region, "instance-state-name", states)

    def of_runs(self, runs: Sequence[str], region: str = "") -> list[dict[str, Any]]:
        """Return the same of the instances of some runs, those that are gone, too."""
        return self._listed(region, "tag:cnd:run", runs) if runs else []

    def _listed(
        self, region: str, name: str, values: Sequence[str]
    ) -> list[dict[str, Any]]:
        pages = self.client("ec2", region).get_paginator("describe_instances")
        wanted = {"Name": name, "Values": list(values)}
        return [
            {
                "id": raw["InstanceId"],
                "run": {t["Key"]: t["Value"] for t in raw["Tags"]}.get("cnd:run", ""),
                "state": raw["State"]["Name"],
            }
            for page in pages.paginate(Filters=[wanted])
            for reservation in page["Reservations"]
            for raw in reservation["Instances"]
        ]

    def live(self) -> list[dict[str, Any]]:
        """Return the instances of runs that live, as EC2 tells of them."""
        return [i for i in self.instances(states=ALIVE) if i["run"]]

    def status(self) -> list[dict[str, Any]]:
        """Return the instances that live and what they do, as `cnd status` tells."""
        found = self.ask("status")["instances"]
        assert isinstance(found, list)
        return found

    def scram(self, *words: str) -> None:
        """Terminate what was left running; what cannot be asked may be running."""
        try:
            anything: object = self.live()
        except (BotoCoreError, ClientError):
            anything = True
        if anything:
            self.run("scram", *words)


def _object(done: subprocess.CompletedProcess[str], status: int) -> dict[str, Any]:
    assert done.returncode == status, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@contextlib.contextmanager
def _within(environ: dict[str, str], folder: Path, argv: list[str]) -> Iterator[None]:
    """Let this process have another environment, folder and words for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environ.keys():
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        patch.setattr(sys, "argv", argv)
        yield
