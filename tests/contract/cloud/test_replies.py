"""What `cnd.cloud.replies` promises: foreign replies are rejected, and retried."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest

from cnd import ec2, sqs
from cnd.cloud import replies
from cnd.cloud.connection import Cloud, connect, required
from cnd.cloud.failures import code
from cnd.errors import CloudError
from tests.support.aws import SERVICES
from tests.support.local_cloud import LocalCloud
from tests.support.portal import ANSWERS, HUGE, Portal, portal


@pytest.fixture
def between(cloud: LocalCloud) -> Iterator[Portal]:
    with portal(cloud.endpoint) as found:
        yield found


@pytest.fixture
def aws(cloud: LocalCloud, between: Portal, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The cloud, through the server in front of it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", cloud.endpoint.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", cloud.endpoint.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
    found = required(connect("aws"))
    assert found.ec2 and found.sqs and found.ssm  # created before the trouble begins
    between.calls.clear()
    return found


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_rejected_reply_is_retried_and_then_reported_in_one_line(
    aws: Cloud, between: Portal, answer: str
) -> None:
    between.answer = answer
    with pytest.raises(CloudError, match="could not list the instances") as caught:
        ec2.find(aws.ec2)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    assert between.calls == ["DescribeInstances"] * 4
    assert "proxy" in (caught.value.hint or "") or "network" in (
        caught.value.hint or ""
    )


@pytest.mark.parametrize("answer", ANSWERS)
def test_trouble_that_ends_within_the_retries_of_a_call_is_not_reported(
    aws: Cloud, between: Portal, answer: str
) -> None:
    between.answer = answer

    def heard(operation: str) -> None:
        if len(between.calls) == 3:
            between.answer = ""

    between.heard = heard
    assert ec2.find(aws.ec2, run="no-such-run") == []
    assert len(between.calls) == 3


@pytest.mark.parametrize("answer", ["html", "truncated"])
def test_a_poll_with_a_foreign_reply_does_not_count_as_empty(
    aws: Cloud, between: Portal, answer: str
) -> None:
    between.answer = answer
    with pytest.raises(CloudError) as caught:
        sqs.runs(aws.sqs)
    assert code(caught.value) == replies.UNREADABLE


def test_a_launch_with_a_foreign_reply_may_have_launched(
    aws: Cloud, between: Portal
) -> None:
    between.answer = "html"
    spec = ec2.LaunchSpec("ami-1", "t3.micro", "key", "sg-1", "", 60.0)
    with pytest.raises(CloudError) as caught:
        ec2.launch(aws.ec2_once, spec, run="r", owner="me", token="t", count=1)
    assert code(caught.value) in ec2.INTERNAL
    assert between.calls == ["RunInstances"]


def test_no_more_of_a_reply_than_the_limit_is_in_memory(
    aws: Cloud, between: Portal
) -> None:
    between.answer = "huge"
    tracemalloc.start()
    try:
        with pytest.raises(CloudError, match="more than 32 MiB"):
            ec2.find(aws.ec2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The server is in this process, too, and holds all of its answer.
    assert peak < HUGE + 2.5 * replies.MOST_BYTES


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"<html>\n\n  <p>\x1b[31mred\x00</p>", "<html> <p>?[31mred?</p>"),
        ("x" * 100, "x" * 79 + "…"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_what_came_is_shown_in_one_printable_line(text: object, shown: str) -> None:
    assert replies.excerpt(text) == shown


def test_the_required_members_are_in_the_replies_that_aws_describes() -> None:
    session: Any = botocore.session.get_session()
    models = [session.get_service_model(service) for service in SERVICES]
    known = {
        name: model.operation_model(name).output_shape
        for model in models
        for name in model.operation_names
    }
    for operation, members in replies.REQUIRED.items():
        assert set(members) <= set(known[operation].members), operation
