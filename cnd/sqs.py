"""SQS: one queue per run, for stop messages from any program.

One rule: any message means stop.  It is read without being hidden from other readers
(visibility timeout 0) and never deleted, so every reader of the queue sees it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cnd.cloud.failures import code, translated
from cnd.errors import CloudError
from cnd.model.run_name import is_run

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

PREFIX = "cnd-"
LONG_POLL = 20  # seconds, the most that SQS allows
RETENTION = 3600  # seconds; SQS allows 60 s to 14 days
RETRY = 2.0  # seconds after a failed poll
# Seconds for which a queue that was never read may be new: SQS knows one a second after
# its creation, and answers `NonExistentQueue` until then.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
NEW_FOR = 60.0
KNOWN_WITHIN = 2.0  # seconds; a queue that is not known after them is trouble
NEW_RETRY = 1.0  # seconds after which such a call is repeated
GONE = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")


def create(sqs: SQSClient, run: str) -> str:
    """Create the queue of `run`; return its URL."""
    with translated("create the stop queue"):
        return sqs.create_queue(
            QueueName=PREFIX + run,
            Attributes={
                "MessageRetentionPeriod": str(RETENTION),
                "ReceiveMessageWaitTimeSeconds": str(LONG_POLL),
                "VisibilityTimeout": "0",
            },
            tags={"cnd:run": run},
        )["QueueUrl"]


def url(sqs: SQSClient, run: str) -> str | None:
    """Return the URL of the queue of `run`, or None if there is none."""
    try:
        with translated("find the stop queue"):
            return sqs.get_queue_url(QueueName=PREFIX + run)["QueueUrl"]
    except CloudError as error:
        if code(error) in GONE:
            return None
        raise


def runs(sqs: SQSClient) -> list[str]:
    """Return the runs that have a queue; a queue `cnd-...` may be another program's."""
    with translated("list the stop queues"):
        pages = sqs.get_paginator("list_queues").paginate(QueueNamePrefix=PREFIX)
        urls = [found for page in pages for found in page.get("QueueUrls", [])]
        names = [found.rsplit("/", 1)[-1].removeprefix(PREFIX) for found in urls]
    return sorted(filter(is_run, names))


def send(sqs: SQSClient, queue: str, text: str) -> None:
    """Put a stop message with its reason on the queue."""
    with translated("send the stop message"):
        sqs.send_message(QueueUrl=queue, MessageBody=text)


def send_if_there(sqs: SQSClient, queue: str, text: str) -> bool:
    """Put a stop message on a queue; return whether the queue exists.

    One that is being deleted is listed, and has a URL, for up to 60 s.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteQueue.html
    """
    try:
        send(sqs, queue, text)
    except CloudError as error:
        if code(error) in GONE:
            return False
        raise
    return True


def delete(sqs: SQSClient, queue: str) -> None:
    """Delete the queue; one that does not exist is no failure."""
    try:
        with translated("delete the stop queue"):
            sqs.delete_queue(QueueUrl=queue)
    except CloudError as error:
        if code(error) not in GONE:
            raise


def listen(
    sqs: SQSClient,
    queue: str,
    *,
    closing: threading.Event,
    message: Callable[[str], None],
    trouble: Callable[[CloudError], None],
    new_for: float = NEW_FOR,
) -> None:
    """Call `message` with the first message's text, then return.

    Also return once `closing` is set, at the latest after one long poll.  A failed
    poll is passed to `trouble`, once for each new reason, and repeated.  A queue that
    does not exist ends the listening once it was read, or after `new_for` seconds; in
    its first moment that is not even trouble.
    """
    last, began = "", time.monotonic()
    known_by, new_until = began + min(KNOWN_WITHIN, new_for), began + new_for
    while not closing.is_set():
        began = time.monotonic()
        try:
            texts = _receive(sqs, queue)
        except CloudError as error:
            is_gone = code(error) in GONE
            if closing.is_set():
                return
            if str(error) != last and not (is_gone and began < known_by):
                trouble(error)
                last = str(error)
            if is_gone and began >= new_until:
                return
            closing.wait(NEW_RETRY if is_gone else RETRY)
            continue
        known_by = new_until = began
        for text in texts:
            message(text)
            return
        # A service that answers at once without a message does not long-poll.
        closing.wait(max(0.0, began + RETRY - time.monotonic()))


def _receive(sqs: SQSClient, queue: str) -> list[str]:
    with translated("read the stop queue"):
        reply = sqs.receive_message(
            QueueUrl=queue,
            MaxNumberOfMessages=1,
            VisibilityTimeout=0,
            WaitTimeSeconds=LONG_POLL,
        )
        return [str(each.get("Body", "")) for each in reply.get("Messages", [])]
