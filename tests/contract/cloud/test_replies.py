"""What `cnd.cloud.replies` promises: foreign replies are rejected, and retried."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import botocore.session
import pytest

from cnd import ec2, s3logs, sqs
from cnd.cloud import replies
from cnd.cloud.connection import Clients, Cloud, connect, required
from cnd.cloud.failures import code, translated
from cnd.errors import CloudError
from cnd.model.launch_spec import LaunchSpec
from tests.support.aws import SERVICES
from tests.support.local_cloud import LocalCloud
from tests.support.portal import ANSWERS, HUGE, Portal, answered, portal


@pytest.fixture(scope="module")
def server(cloud: LocalCloud) -> Iterator[Portal]:
    with portal(cloud.endpoint) as found:
        yield found


@pytest.fixture(scope="module")
def beyond(cloud: LocalCloud, server: Portal) -> Iterator[Cloud]:
    """The cloud, through the server in front of it; its clients take 0.2 s to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", cloud.endpoint.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", cloud.endpoint.secret_key)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        found = required(connect("aws"))
        assert found.ec2 and found.sqs and found.ssm  # before the trouble begins
        yield found


@pytest.fixture
def between(server: Portal) -> Portal:
    """The server, which passes on again what it gets."""
    server.answer, server.says, server.spoils = "", None, False
    server.heard = lambda operation: None
    server.calls.clear()
    return server


@pytest.fixture
def aws(beyond: Cloud, between: Portal) -> Cloud:
    return beyond


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
    spec = LaunchSpec("ami-1", "t3.micro", "key", "sg-1", "", 60.0)
    with pytest.raises(CloudError) as caught:
        ec2.launch(aws.ec2_once, spec, run="r", owner="me", token="t", count=1)
    assert code(caught.value) in ec2.INTERNAL
    assert between.calls == ["RunInstances"]


@pytest.mark.parametrize("status", [302, 403, 407, 500, 503, 511])
@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.get("ec2", attempts=1).run_instances(MinCount=1, MaxCount=1),
        lambda c: c.get("s3", attempts=1).put_object(Bucket="b", Key="k", Body=b"x"),
        lambda c: c.get("sqs", attempts=1).receive_message(QueueUrl="http://q/1/q"),
    ],
    ids=["ec2", "s3", "sqs"],
)
def test_a_status_without_an_error_code_is_no_answer_of_the_cloud(
    aws: Cloud, between: Portal, status: int, call: Callable[[Clients], object]
) -> None:
    """A proxy's, which does not tell what became of the call: perhaps it was done."""
    between.says = status, b""
    with pytest.raises(CloudError) as caught, translated("try"):
        call(aws.clients)
    assert code(caught.value) in ec2.INTERNAL
    assert f"with HTTP status {status}" in str(caught.value)


@pytest.mark.parametrize(("status", "calls"), [(404, 1), (511, 2)])
def test_to_head_a_bare_status_is_an_answer_where_s3_gives_it(
    aws: Cloud, between: Portal, status: int, calls: int
) -> None:
    between.says = status, b""

    def heard(operation: str) -> None:
        if len(between.calls) == calls:
            between.says = 404, b""

    between.heard = heard
    assert not s3logs.exists(aws.s3, "bucket")
    assert len(between.calls) == calls


def test_an_error_to_a_call_that_streams_is_read_within_the_limit(
    aws: Cloud, between: Portal
) -> None:
    between.says = 403, b"<html>" + (replies.MOST_BYTES + 1) * b" "
    client = aws.clients.get("s3", attempts=1)
    with pytest.raises(CloudError, match="more than 32 MiB"), translated("fetch"):
        client.get_object(Bucket="bucket", Key="key")


class Slow:
    """A body that comes in pieces, a second each."""

    def __init__(self, pieces: int, missing: int = 0) -> None:
        self.left, self.length_remaining = pieces, missing
        self.now, self.closed = 0.0, False

    def read1(self, most: int) -> bytes:
        self.now += 1
        self.left -= 1
        return b"x" if self.left >= 0 else b""

    read = read1

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("body", "told"), [(Slow(200), "a reply of 60 s"), (Slow(2, 5), "ends too soon")]
)
def test_a_body_that_does_not_come_to_its_end_is_given_up(
    body: Slow, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        replies.read(body, clock=lambda: body.now)
    assert body.closed
    assert body.now < 65
    whole = Slow(50)
    assert replies.read(whole, clock=lambda: whole.now) == 50 * b"x"


def test_no_more_of_a_reply_is_in_memory_than_the_limit(
    aws: Cloud, between: Portal
) -> None:
    between.answer = "huge"
    answered("huge")  # of the server, which is in this process: made before
    tracemalloc.start()
    try:
        with pytest.raises(CloudError, match="more than 32 MiB"):
            ec2.find(aws.ec2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The server holds what it sends, too.
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
