"""One local cloud for the tests of this folder, and a host in it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from cnd.cloud.connection import Cloud
from tests.support.aws import Stub
from tests.support.local_cloud import (
    Host,
    LocalCloud,
    connected,
    running_cloud,
)
from tests.support.terminal import MEMORY_SECONDS


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One cloud for all tests that leave it as they found it, or nearly."""
    memory = str(MEMORY_SECONDS)
    home = tmp_path_factory.mktemp("cloud")
    with running_cloud(home, CND_LOCAL_MEMORY_SECONDS=memory) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def host(cloud: LocalCloud) -> Host:
    """A host that no other test ends."""
    return cloud.host()


@pytest.fixture(scope="session")
def aws(cloud: LocalCloud) -> Cloud:
    """The shared cloud, through CND's own clients."""
    return connected(cloud)


@pytest.fixture
def run() -> str:
    """The name of a run that no other test has."""
    return f"20260101-{secrets.randbelow(10**6):06}-{secrets.token_hex(2)}"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as stub:
        yield stub
