"""A real local cloud, in a state folder of the tests' own, and its hosts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
import pytest
from botocore.config import Config
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cnd import local
from cnd.cloud.connection import Cloud, connect, required
from cnd.local import Endpoint
from tests.support.aws import client
from tests.support.forking import CLOUD, begin_cloud, can_fork
from tests.support.waiting import eventually

UBUNTU = (
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
)
SECONDS = 60.0  # no wait of a test is longer


@contextmanager
def environment(home: Path, **variables: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(home))
        for name in list(os.environ):
            if name.startswith("CND_LOCAL_"):
                patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@dataclass
class LocalCloud:
    """A running cloud with an imported key, and short methods for tests."""

    endpoint: Endpoint
    key: Path  # a private key; its public half becomes the key pair "tests"
    _keyed: bool = False
    # Threads of one test may be the first to need the key.
    _keying: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def client(self, service: str, config: Config | None = None) -> Any:
        return client(self.endpoint, service, config=config)

    @property
    def ec2(self) -> Any:
        with self._keying:
            if not self._keyed:
                self.client("ec2").import_key_pair(
                    KeyName="tests",
                    PublicKeyMaterial=self.key.with_suffix(".pub").read_bytes(),
                )
                self._keyed = True
        return self.client("ec2")

    @property
    def image(self) -> str:
        parameter = self.client("ssm").get_parameter(Name=UBUNTU)["Parameter"]
        return str(parameter["Value"])

    def launch(self, count: int = 1, **more: Any) -> list[str]:
        """Launch without waiting; return the instance ids."""
        reply = self.ec2.run_instances(
            **{
                "ImageId": self.image,
                "InstanceType": "c5.large",
                "KeyName": "tests",
                "MinCount": count,
                "MaxCount": count,
                **more,
            }
        )
        return [instance["InstanceId"] for instance in reply["Instances"]]

    def describe(self, instance: str) -> dict[str, Any]:
        reply = self.ec2.describe_instances(InstanceIds=[instance])
        return dict(reply["Reservations"][0]["Instances"][0])

    def state(self, instance: str) -> str:
        return str(self.describe(instance)["State"]["Name"])

    def reaches(self, instance: str, state: str, *, within: float = SECONDS) -> bool:
        """Wait until an instance is in a state; return True."""
        return eventually(
            lambda: self.state(instance) == state, within=within, every=0.1
        )

    def host(self, **more: Any) -> Host:
        """Launch one instance and wait until it runs."""
        (instance,) = self.launch(**more)
        eventually(lambda: self.state(instance) == "running", tell=self.log)
        return Host(self, instance, self.describe(instance))

    def tree(self, instance: str) -> Path:
        return self.endpoint.folder / "hosts" / instance

    def log(self) -> str:
        return (self.endpoint.folder / "cloud.log").read_text()


@dataclass
class Host:
    cloud: LocalCloud
    id: str
    description: dict[str, Any]

    @property
    def address(self) -> str:
        return str(self.description["PublicIpAddress"])

    @property
    def port(self) -> int:
        tags = {tag["Key"]: tag["Value"] for tag in self.description["Tags"]}
        return int(tags["cnd:ssh-port"])

    @property
    def tree(self) -> Path:
        return self.cloud.tree(self.id)

    @contextmanager
    def ssh(self, user: str = "ubuntu") -> Iterator[paramiko.SSHClient]:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect(
            self.address,
            self.port,
            user,
            key_filename=str(self.cloud.key),
            allow_agent=False,
            look_for_keys=False,
            timeout=SECONDS,
        )
        with client:
            yield client

    def run(self, command: str) -> tuple[int, str, str]:
        """Run one command; return exit status, output, errors."""
        with self.ssh() as client:
            _, out, err = client.exec_command(command, timeout=SECONDS)
            output, errors = out.read().decode(), err.read().decode()
            return out.channel.recv_exit_status(), output, errors

    def syslog(self) -> str:
        return (self.tree / "var/log/syslog").read_text()

    def logs(self, text: str) -> bool:
        """Wait until the syslog of the host has a text; return True."""
        return eventually(lambda: text in self.syslog(), within=SECONDS)


def make_key(path: Path) -> None:
    """Write an Ed25519 key pair to `path` and `path`.pub."""
    private = Ed25519PrivateKey.generate()
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    path.with_suffix(".pub").write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    )


@contextmanager
def running_cloud(home: Path, **variables: str) -> Iterator[LocalCloud]:
    """Start a cloud of its own under `home`, with these environment variables."""
    home.mkdir(exist_ok=True)
    key = home / "key"
    make_key(key)
    with environment(home, **variables):
        forks = can_fork(CLOUD, os.environ)
        endpoint = local.up(begin=begin_cloud if forks else local.begin_process)
    try:
        yield LocalCloud(endpoint, key)
    finally:
        with environment(home):
            local.down()


def connected(cloud: LocalCloud) -> Cloud:
    """Return `cloud` as CND's own commands connect to it."""
    with environment(cloud.endpoint.folder.parents[1]):
        return required(connect("local"))
