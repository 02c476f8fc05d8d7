"""Requests as an attacker writes them: every header is theirs, nothing is signed."""

from __future__ import annotations

import http.client
import uuid
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from cnd.local import Endpoint

SECONDS = 60.0
FORM = "application/x-www-form-urlencoded"
# As flask-cors and moto would take it, with a key that does not exist.
FORGED = (
    "AWS4-HMAC-SHA256 Credential=AKIAFORGED/20260101/us-east-1/ec2/aws4_request, "
    "SignedHeaders=host, Signature=" + "0" * 64
)
LAUNCH = urlencode(
    {
        "Action": "RunInstances",
        "Version": "2016-11-15",
        "ImageId": "ami-12c6146b",
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": "IyEvYmluL3NoCnRvdWNoIC90bXAvb3duZWQK",  # touch /tmp/owned
    }
)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


def ask(
    cloud: Endpoint | str,
    path: str = "/",
    *,
    method: str = "GET",
    body: bytes | str = b"",
    **headers: str,
) -> Answer:
    """Send a request to the cloud, or to a whole URL; `host` may say anything.

    A header's name has underscores for its dashes.
    """
    url = urlsplit(cloud if isinstance(cloud, str) else cloud.url + path)
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    data = body.encode() if isinstance(body, str) else body
    connection = http.client.HTTPConnection(url.netloc, timeout=SECONDS)
    target = url.path + ("?" + url.query if url.query else "")
    connection.putrequest(method, target, skip_host="host" in told)
    for name, value in told.items():
        connection.putheader(name, value)
    if data or method in ("POST", "PUT"):
        connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data)
    try:
        reply = connection.getresponse()
        found = {name.lower(): value for name, value in reply.getheaders()}
        return Answer(reply.status, found, reply.read())
    finally:
        connection.close()


def multipart(
    fields: list[tuple[str, str]], data: bytes, after: list[tuple[str, str]]
) -> tuple[str, bytes]:
    """Return the content type and body of a form with a file between its fields."""
    boundary = uuid.uuid4().hex

    def part(name: str, value: bytes, more: str = "") -> bytes:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{more}'
        return head.encode() + b"\r\n\r\n" + value + b"\r\n"

    parts = [part(name, value.encode()) for name, value in fields]
    parts.append(part("file", data, '; filename="file"'))
    parts += [part(name, value.encode()) for name, value in after]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body
