"""What counts as a reply of the cloud, and what is rejected.

One rule: a reply is read up to a limit and holds what its call promises.  HTML from a
proxy, half a document, a document without a member that CND reads, and one that does
not end become an error of the call here, inside botocore: the call is sent again as
after any status 502, and if all attempts fail a `ClientError` describes what came.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from botocore.exceptions import HTTPClientError
from botocore.parsers import ResponseParserFactory

MOST_BYTES = 32 << 20  # of one reply; EC2 describes 1000 instances in about 8 MB
PIECE = 1 << 16  # bytes read at a time
MOST_SECONDS = 60.0  # for the body of one reply; each wait for a piece has its own end
EXCERPT = 80  # characters of what came, for the user
UNREADABLE = "UnreadableReply"  # the error code of a rejected reply
HTML = (b"<!doctype html", b"<html")

# HTTP statuses by which S3 answers HEAD, to which no reply has an error code.
HEAD_STATUSES = (301, 307, 400, 403, 404, 405, 412)

# Operation -> members of its reply without which CND cannot go on.  AWS sends each of
# them, if empty; what it may leave out is not listed.
REQUIRED: dict[str, tuple[str, ...]] = {
    # EC2
    "CreateFleet": ("FleetId",),
    "CreateSecurityGroup": ("GroupId",),
    "DescribeImages": ("Images",),
    "DescribeInstanceTypeOfferings": ("InstanceTypeOfferings",),
    "DescribeInstanceTypes": ("InstanceTypes",),
    "DescribeInstances": ("Reservations",),
    "DescribeKeyPairs": ("KeyPairs",),
    "DescribeLaunchTemplates": ("LaunchTemplates",),
    "DescribeRegions": ("Regions",),
    "DescribeRouteTables": ("RouteTables",),
    "DescribeSecurityGroups": ("SecurityGroups",),
    "DescribeSpotPriceHistory": ("SpotPriceHistory",),
    "DescribeSubnets": ("Subnets",),
    "DescribeTags": ("Tags",),
    "DescribeVpcs": ("Vpcs",),
    "ImportKeyPair": ("KeyName",),
    "RunInstances": ("Instances",),
    "TerminateInstances": ("TerminatingInstances",),
    # Auto Scaling
    "DescribeAutoScalingGroups": ("AutoScalingGroups",),
    "DescribeScalingActivities": ("Activities",),
    # STS, SSM, Service Quotas, prices, the account's plan
    "GetAccountPlanState": ("accountPlanType",),
    "GetCallerIdentity": ("Account", "Arn"),
    "GetParameter": ("Parameter",),
    "GetServiceQuota": ("Quota",),
    "GetProducts": ("PriceList",),
    # SQS, where ReceiveMessage and ListQueues leave out an empty list
    "CreateQueue": ("QueueUrl",),
    "GetQueueUrl": ("QueueUrl",),
    "SendMessage": ("MessageId",),
    # S3
    "GetObject": ("ETag",),
    "ListObjectsV2": ("Name",),
    "PutObject": ("ETag",),
}


def excerpt(text: object, most: int = EXCERPT) -> str:
    """Return the beginning of text from another machine as one printable line."""
    if isinstance(text, bytes):
        text = text[: 4 * most].decode("utf-8", "replace")
    words = " ".join(str(text)[: 8 * most].split())
    shown = "".join(c if c.isprintable() else "?" for c in words)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


class Parsers(ResponseParserFactory):
    """botocore's parsers, wrapped so that none raises: see `_Parser`."""

    def create_parser(self, protocol_name: str) -> Any:
        return _Parser(super().create_parser(protocol_name), protocol_name)


class _Parser:
    """One of botocore's parsers; what it cannot read becomes an error of the call."""

    def __init__(self, parser: Any, protocol: str) -> None:
        self._parser, self._is_json = parser, protocol == "json"

    def parse(self, response: dict[str, Any], shape: Any) -> dict[str, Any]:
        body, status = response["body"], response["status_code"]
        whole = body if isinstance(body, bytes) else b""  # it may be a stream
        if trouble := _objection(whole, is_json=self._is_json):
            return _refused(trouble, whole, status)
        try:
            parsed = self._parser.parse(response, shape)
        except Exception as error:  # of any kind: the parsers have no common base class
            return _refused(f"it cannot be read ({_name(error)})", whole, status)
        return parsed if isinstance(parsed, dict) else _refused("null", whole, status)


def check(client: Any) -> None:
    """Make a client of botocore limit the size of its replies, and check them.

    Its session must have `Parsers`.
    """
    # There is no public way to the HTTP session of a client.
    endpoint = client._endpoint
    endpoint.http_session = _Limited(endpoint.http_session)
    service = client.meta.service_model.service_id.hyphenize()
    # Before botocore's own handler, which then sends the call again.
    client.meta.events.register_first(f"needs-retry.{service}", _check)


class _Limited:
    """An HTTP session that reads no more than `MOST_BYTES` of a reply into memory."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, request: Any) -> Any:
        streamed, request.stream_output = request.stream_output, True
        reply = self._session.send(request)
        if not streamed or reply.status_code >= 300:  # errors are never streamed
            try:
                reply._content = read(reply.raw)
            except Exception as error:  # urllib3's, of which botocore handles few
                raise HTTPClientError(error=error) from error
        return reply

    def close(self) -> None:
        self._session.close()


def read(
    stream: Any,
    most: int = MOST_BYTES,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """Return all of a stream; ValueError, and its connection closed, if that fails.

    Because it is longer, takes longer, or ends before its Content-Length does.
    """
    pieces, size, deadline = [], 0, clock() + MOST_SECONDS
    # `read` would wait for a whole piece, however slowly its bytes come.
    more = getattr(stream, "read1", stream.read)  # urllib3 1 has no `read1`
    while piece := more(PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > most or clock() > deadline:
            stream.close()
            told = (
                f"more than {most >> 20} MiB" if size > most else f"{MOST_SECONDS:g} s"
            )
            raise ValueError(f"a reply of {told}")
    if getattr(stream, "length_remaining", None):  # of which urllib3 1 says nothing
        stream.close()
        raise ValueError("a reply that ends too soon")
    return b"".join(pieces)


def _check(response: Any, operation: Any, **_: Any) -> None:
    """Give a rejected reply the status of an error, as `check_for_200_error` does.

    https://github.com/boto/botocore/blob/develop/botocore/handlers.py
    """
    if response is None:  # nothing was answered
        return
    http, parsed = response
    code = (parsed.get("Error") or {}).get("Code")
    if http.status_code <= 300 and code is None:
        lacking = [n for n in REQUIRED.get(operation.name, ()) if parsed.get(n) is None]
        if lacking:
            told = f"it lacks {' and '.join(lacking)}"
            body = b"" if operation.has_streaming_output else http.content
            parsed.update(_refused(told, body, http.status_code))
    elif not _is_error(code, http.status_code, operation.http["method"]):
        told = "it is no error of AWS"
        parsed.update(_refused(told, http.content, http.status_code))
    error = parsed.get("Error") or {}
    if error.get("Code") == UNREADABLE:
        service = operation.service_model.service_name
        call, reason = f"{service}:{operation.name}", error["Message"]
        error["Message"] = f"what came is no reply to {call}: {reason}"
        http.status_code = HTTPStatus.BAD_GATEWAY


def _is_error(code: str | None, status: int, method: str) -> bool:
    """Whether an error is AWS's own: a proxy's has an HTTP status and no code."""
    if code and code != str(status):
        return True
    return method == "HEAD" and status in HEAD_STATUSES


def _objection(body: bytes, *, is_json: bool) -> str:
    """Return why a body cannot be a reply, or ""."""
    if body[:64].lstrip().lower().startswith(HTML):
        return "it is HTML"
    if is_json and body:  # botocore reads anything but JSON as an empty object
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return "it is no JSON"
        if not isinstance(document, dict):
            return "it is no JSON object"
    return ""


def _refused(trouble: str, body: bytes, status: int) -> dict[str, Any]:
    start = f": {excerpt(body)}" if body else ""
    message = f"{trouble}, with HTTP status {status}{start}"
    return {
        "Error": {"Code": UNREADABLE, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }


def _name(error: Exception) -> str:
    return type(error).__name__
