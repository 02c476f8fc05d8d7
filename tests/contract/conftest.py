"""A real embedded cloud, in a state folder of the tests' own."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cnd import local
from cnd.cloud import Cloud, connect, required
from cnd.local import Endpoint

UBUNTU = (
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
)
SECONDS = 20.0  # no wait of a test is longer


def eventually(condition: Callable[[], bool], *, within: float = SECONDS) -> bool:
    """Wait until `condition` holds; returns whether it came to hold."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


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
    """A running cloud with an imported key, and short words for what tests do."""

    endpoint: Endpoint
    key: Path  # a private key; its public half becomes the key pair "tests"
    _clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,  # type: ignore[call-overload]
                endpoint_url=self.endpoint.url,
                region_name=self.endpoint.region,
                aws_access_key_id=self.endpoint.access_key,
                aws_secret_access_key=self.endpoint.secret_key,
            )
        return self._clients[service]

    @property
    def ec2(self) -> Any:
        if "ec2" not in self._clients:
            self.client("ec2").import_key_pair(
                KeyName="tests",
                PublicKeyMaterial=self.key.with_suffix(".pub").read_bytes(),
            )
        return self.client("ec2")

    @property
    def image(self) -> str:
        parameter = self.client("ssm").get_parameter(Name=UBUNTU)["Parameter"]
        return str(parameter["Value"])

    def launch(self, count: int = 1, **more: Any) -> list[str]:
        """Launch without waiting; returns the instance ids."""
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
        return eventually(lambda: self.state(instance) == state, within=within)

    def host(self, **more: Any) -> Host:
        """Launch one instance and wait until it runs."""
        (instance,) = self.launch(**more)
        assert self.reaches(instance, "running"), self.log()
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
        """Run one command; returns exit status, output, errors."""
        with self.ssh() as client:
            _, out, err = client.exec_command(command, timeout=SECONDS)
            output, errors = out.read().decode(), err.read().decode()
            return out.channel.recv_exit_status(), output, errors

    def syslog(self) -> str:
        return (self.tree / "var/log/syslog").read_text()

    def logs(self, text: str, *, within: float = SECONDS) -> bool:
        return eventually(lambda: text in self.syslog(), within=within)


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
        endpoint = local.up()
    try:
        yield LocalCloud(endpoint, key)
    finally:
        with environment(home):
            local.down()


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One cloud for all tests that leave it as they found it, or nearly."""
    with running_cloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def host(cloud: LocalCloud) -> Host:
    """A host that nobody ends."""
    return cloud.host()


def connected(cloud: LocalCloud) -> Cloud:
    """Return `cloud` as CND's own commands connect to it."""
    with environment(cloud.endpoint.folder.parents[1]):
        return required(connect("local"))


@pytest.fixture(scope="session")
def aws(cloud: LocalCloud) -> Cloud:
    """The shared cloud, through CND's own clients."""
    return connected(cloud)


@pytest.fixture
def run() -> str:
    """The name of a run that nobody else has."""
    return f"20260101-{secrets.randbelow(10**6):06}-{secrets.token_hex(2)}"
