"""A user whose S3 and SQS are LocalStack's, and whose EC2 is the local cloud's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cnd import local
from cnd.local import Endpoint
from tests.judges.server import LocalStack, Missing, interpreter
from tests.support import aws
from tests.support.terminal import Terminal, paced_environment


@pytest.fixture(scope="session")
def endpoint(paced_state: Path) -> Endpoint:
    """The local cloud: its key is the one of all three."""
    return Terminal(paced_state, paced_environment(paced_state), paced_state).cloud()


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python that has the judges' libraries."""
    try:
        return interpreter()
    except Missing as why:
        pytest.skip(f"needs LocalStack: {why}")


@pytest.fixture(scope="session")
def judge(
    endpoint: Endpoint, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    folder = tmp_path_factory.mktemp("localstack")
    account = aws.client(endpoint, "sts").get_caller_identity()["Account"]
    key, secret = endpoint.access_key, endpoint.secret_key
    server = LocalStack.started(python, folder, key, secret, account)
    yield server
    server.close()


@pytest.fixture
def customer(
    endpoint: Endpoint, judge: LocalStack, paced_state: Path, tmp_path: Path
) -> Iterator[Terminal]:
    """A user with credentials, by whose environment AWS is these two servers."""
    elsewhere = {f"AWS_ENDPOINT_URL_{name}": judge.url for name in ("S3", "SQS")}
    environment = {
        **paced_environment(paced_state),
        **local.environment(endpoint),
        **elsewhere,
    }
    user = Terminal(paced_state, environment, tmp_path)
    yield user
    user.scram("--cloud", "aws")
