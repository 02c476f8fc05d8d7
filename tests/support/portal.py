"""What may stand between CND and its cloud: a server that passes on, or answers itself.

It signs what it passes on anew, for the cloud's own name: so the client may be pointed
at it, and the cloud still verifies every call.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cnd.local import Endpoint

HUGE = 50 << 20  # bytes
PAGE = b"<!DOCTYPE html>\n<html><body>Welcome!<br>Please log in.</body></html>\n"
# What comes in place of a reply: the HTTP status, and the body.
ANSWERS: dict[str, tuple[int, bytes]] = {
    "html": (200, PAGE),
    "empty": (200, b"{}"),
    "truncated": (200, b'<?xml version="1.0"?>\n<DescribeInstancesResponse><reser'),
    "forbidden": (403, PAGE),
    "huge": (200, b"<html>"),  # and then spaces, up to `HUGE`
}
SECONDS = 40.0  # a long poll takes up to 20
SCOPE = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request")
PASSED = ("content-type", "x-amz-target", "content-md5", "x-amz-expected-bucket-owner")


@functools.cache  # one for all who wait for it
def answered(name: str) -> tuple[int, bytes]:
    """Return the status and the body of one of ANSWERS."""
    status, body = ANSWERS[name]
    return status, body.ljust(HUGE) if name == "huge" else body


@dataclass
class Portal:
    """A server in front of a cloud."""

    cloud: Endpoint
    url: str = ""
    answer: str = ""  # one of ANSWERS, in place of the cloud's; "": it passes on
    says: tuple[int, bytes] | None = None  # or a status and a body, likewise
    spoils: bool = False  # the cloud hears the call all the same
    calls: list[str] = field(default_factory=list)  # operations, as they came
    # Told of each call before it is dealt with.
    heard: Callable[[str], None] = lambda operation: None

    def deal_with(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        operation = _operation(handler, body)
        self.calls.append(operation)
        self.heard(operation)
        answer = answered(self.answer) if self.answer else self.says
        if not answer or self.spoils:
            status, headers, told = self._passed_on(handler, body)
        if answer:
            status, told = answer
            headers = [("Content-Type", "text/html")]
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(told)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(told)

    def _passed_on(
        self, handler: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        kept = {
            name: value
            for name, value in handler.headers.items()
            if name.lower() in PASSED or name.lower().startswith("x-amz-checksum")
        }
        request = AWSRequest(
            handler.command, self.cloud.url + handler.path, kept, body or None
        )
        if scope := SCOPE.search(handler.headers.get("Authorization", "")):
            keys = Credentials(self.cloud.access_key, self.cloud.secret_key)
            region, service = scope.groups()
            kind = S3SigV4Auth if service == "s3" else SigV4Auth
            kind(keys, service, region).add_auth(request)
        parts = urlsplit(self.cloud.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=SECONDS)
        try:
            connection.request(
                handler.command, handler.path, body, dict(request.headers.items())
            )
            reply = connection.getresponse()
            told = reply.read()
        finally:
            connection.close()
        hop = ("content-length", "connection", "transfer-encoding", "date", "server")
        headers = [(k, v) for k, v in reply.getheaders() if k.lower() not in hop]
        return reply.status, headers, told


def _operation(handler: BaseHTTPRequestHandler, body: bytes) -> str:
    """Return the name of a call, as far as a query or JSON protocol tells it."""
    if target := handler.headers.get("X-Amz-Target"):
        return str(target).rpartition(".")[2]
    asked = parse_qs(body.decode("latin-1"))
    dry = " (dry)" if asked.get("DryRun") == ["true"] else ""
    action = asked.get("Action")
    return (
        action[0] + dry
        if action
        else f"{handler.command} {urlsplit(handler.path).path}"
    )


@contextmanager
def portal(cloud: Endpoint) -> Iterator[Portal]:
    """Run a server in front of `cloud`."""
    found = Portal(cloud)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client went away
                super().handle()

        def log_message(self, *_: Any) -> None:
            pass

    def deal_with(handler: BaseHTTPRequestHandler) -> None:
        found.deal_with(handler)

    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", deal_with)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
