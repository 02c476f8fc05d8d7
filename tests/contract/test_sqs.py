"""What `cnd.sqs` promises: any message means stop, and every reader sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from cnd import sqs
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError
from tests.support.faults import lay
from tests.support.local_cloud import SECONDS, LocalCloud
from tests.support.waiting import eventually

SOON = sqs.LONG_POLL / 2  # seconds: no polling interval is waited for


@dataclass
class Listener:
    """The listener of one orchestrator on a queue, in a thread of its own."""

    cloud: Cloud
    queue: str
    new_for: float = sqs.NEW_FOR
    closing: threading.Event = field(default_factory=threading.Event)
    messages: list[str] = field(default_factory=list)
    troubles: list[CloudError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        sqs.listen(
            self.cloud.sqs,
            self.queue,
            closing=self.closing,
            message=self.messages.append,
            trouble=self.troubles.append,
            new_for=self.new_for,
        )

    def ends(self, within: float = SOON) -> bool:
        self.thread.join(within)
        return not self.thread.is_alive()


@pytest.fixture
def queue(aws: Cloud, run: str) -> Iterator[str]:
    url = sqs.create(aws.sqs, run)
    yield url
    sqs.delete(aws.sqs, url)


def body(aws: Cloud, queue: str) -> str:
    reply = aws.sqs.receive_message(
        QueueUrl=queue, WaitTimeSeconds=2, VisibilityTimeout=0
    )
    return reply["Messages"][0]["Body"]


def test_the_queue_of_a_run_is_found_by_its_name(
    aws: Cloud, queue: str, run: str
) -> None:
    assert sqs.url(aws.sqs, run) == queue
    assert run in sqs.runs(aws.sqs)


def test_a_run_without_a_queue_is_no_failure(aws: Cloud, run: str) -> None:
    assert sqs.url(aws.sqs, run) is None
    assert run not in sqs.runs(aws.sqs)


def test_queues_of_other_programs_do_not_count_as_runs(aws: Cloud, run: str) -> None:
    for name in (f"other-{run}", "cnd-orders", f"cnd-{run}-copy"):
        foreign = aws.sqs.create_queue(QueueName=name)["QueueUrl"]
        assert not any(run in name for name in sqs.runs(aws.sqs))
        assert "orders" not in sqs.runs(aws.sqs)
        aws.sqs.delete_queue(QueueUrl=foreign)


def test_a_queue_is_deleted_and_deleting_it_twice_is_no_failure(
    aws: Cloud, run: str
) -> None:
    url = sqs.create(aws.sqs, run)
    sqs.delete(aws.sqs, url)
    sqs.delete(aws.sqs, url)
    assert sqs.url(aws.sqs, run) is None


@pytest.mark.parametrize("text", ["stop", "{}", "grüße \N{SNOWMAN}", "x" * 1000])
def test_any_message_ends_the_listening(aws: Cloud, queue: str, text: str) -> None:
    listener = Listener(aws, queue)
    sqs.send(aws.sqs, queue, text)
    assert listener.ends()
    assert listener.messages == [text]
    assert listener.troubles == []


def test_a_message_from_before_the_listening_is_received(
    aws: Cloud, queue: str
) -> None:
    sqs.send(aws.sqs, queue, "early")
    assert Listener(aws, queue).ends()


def test_every_listener_receives_the_same_message(aws: Cloud, queue: str) -> None:
    listeners = [Listener(aws, queue) for _ in range(4)]
    sqs.send(aws.sqs, queue, "all of you")
    assert all(listener.ends() for listener in listeners)
    assert [listener.messages for listener in listeners] == [["all of you"]] * 4


def test_a_message_stays_for_later_readers(aws: Cloud, queue: str) -> None:
    sqs.send(aws.sqs, queue, "still here")
    assert Listener(aws, queue).ends()
    assert body(aws, queue) == body(aws, queue) == "still here"


def test_a_stop_message_is_received_at_once(aws: Cloud, queue: str) -> None:
    """A long poll waits on the server: there is no polling interval in between."""
    listener = Listener(aws, queue)
    assert eventually(listener.thread.is_alive)
    sent = time.monotonic()
    sqs.send(aws.sqs, queue, "now")
    assert listener.ends()
    assert time.monotonic() - sent < SOON


def test_closing_ends_the_listening_within_a_poll(aws: Cloud, queue: str) -> None:
    """The closing code also sends a message, which ends the poll under way."""
    listener = Listener(aws, queue)
    listener.closing.set()
    sqs.send(aws.sqs, queue, "found")
    assert listener.ends()


def test_a_closed_listener_calls_nothing(aws: Cloud) -> None:
    closing = threading.Event()
    closing.set()
    listener = Listener(aws, "http://127.0.0.1:1/no/queue", closing=closing)
    assert listener.ends()
    assert (listener.messages, listener.troubles) == ([], [])


def test_a_missing_queue_ends_the_listening_and_is_reported_once(
    aws: Cloud, run: str
) -> None:
    url = sqs.create(aws.sqs, run)
    sqs.delete(aws.sqs, url)

    listener = Listener(aws, url, new_for=0.0)

    assert listener.ends()
    assert listener.messages == []
    (trouble,) = listener.troubles
    assert "read the stop queue" in str(trouble)


def test_a_queue_that_is_not_known_yet_is_read_once_it_is(
    aws: Cloud, cloud: LocalCloud, queue: str
) -> None:
    """As SQS answers in the first second after the creation of a queue."""
    lay(cloud.endpoint, "sqs:ReceiveMessage", code=sqs.GONE[0])
    sqs.send(aws.sqs, queue, "early")
    listener = Listener(aws, queue)
    assert listener.ends()
    assert listener.messages == ["early"]
    assert listener.troubles == []


def test_a_message_for_a_queue_that_is_being_deleted_has_no_receiver(
    aws: Cloud, cloud: LocalCloud, queue: str
) -> None:
    lay(cloud.endpoint, "sqs:SendMessage", code=sqs.GONE[0])
    assert not sqs.send_if_there(aws.sqs, queue, "stop")
    assert sqs.send_if_there(aws.sqs, queue, "stop")
    lay(cloud.endpoint, "sqs:SendMessage", code="AccessDenied")
    with pytest.raises(CloudError, match="AccessDenied"):
        sqs.send_if_there(aws.sqs, queue, "stop")


def test_a_queue_deleted_under_a_listener_ends_the_listening(
    aws: Cloud, run: str
) -> None:
    url = sqs.create(aws.sqs, run)
    listener = Listener(aws, url, new_for=0.0)
    sqs.delete(aws.sqs, url)
    assert listener.ends(SECONDS + sqs.LONG_POLL)
    assert listener.messages == []
    assert len(listener.troubles) <= 1


def test_a_queue_keeps_its_messages_visible_and_does_not_keep_them_for_ever(
    aws: Cloud, queue: str
) -> None:
    attributes = aws.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])
    found = attributes["Attributes"]
    assert found["VisibilityTimeout"] == "0"
    assert found["ReceiveMessageWaitTimeSeconds"] == "20"
    assert found["MessageRetentionPeriod"] == "3600"


def test_the_queue_has_the_runs_tag(aws: Cloud, queue: str, run: str) -> None:
    assert aws.sqs.list_queue_tags(QueueUrl=queue)["Tags"] == {"cnd:run": run}
