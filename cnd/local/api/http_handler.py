"""HTTP/1.1 between the local cloud's socket and its WSGI application.

One rule: a connection stays open only if the end of the request's body is known and was
read, and the end of the reply is known.  All others are closed after the reply.  The
library's own handler closes each one, and a new connection for each call would cost
more than many of the calls.
"""

from __future__ import annotations

import contextlib
import io
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, cast
from wsgiref.handlers import SimpleHandler

from werkzeug.serving import WSGIRequestHandler

from cnd.local.api.callers import HEADERS

if TYPE_CHECKING:
    from wsgiref.headers import Headers

    from _typeshed.wsgi import WSGIEnvironment

SILENCE_SECONDS = 60.0  # without a byte, until a connection is closed
# After a reply to a request whose body was not read: so long the rest is read and
# dropped, as the client would lose the reply by a reset of the connection.
LINGER_SECONDS = 2.0
CHUNK = 1 << 16
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NO_CONTENT = ("1", "204", "304")  # status of replies without a body
_LENGTH = re.compile("[0-9]{1,18}")


class Handler(WSGIRequestHandler):
    """Answers the requests of one connection, one after another; writes no log."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = CHUNK  # else each header would be a packet
    timeout = SILENCE_SECONDS

    def make_environ(self) -> WSGIEnvironment:
        environ = super().make_environ()
        environ[HEADERS] = self.headers.items()  # as they are signed
        return environ

    def run_wsgi(self) -> None:
        environ = self.make_environ()
        if environ.get("HTTP_EXPECT", "").strip().lower() == "100-continue":
            self.connection.sendall(CONTINUE)
        body = _Body(environ)
        source = environ["wsgi.input"] if body.is_chunked else body
        reply = _Reply(source, cast("IO[bytes]", self.wfile), sys.stderr, environ)
        reply.may_stay = lambda: body.was_read and not self.close_connection
        reply.run(self.server.app)
        self.wfile.flush()
        self.close_connection = reply.ends
        if not body.was_read:
            self._linger()

    def _linger(self) -> None:
        deadline = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER_SECONDS)
            while time.monotonic() < deadline and self.connection.recv(CHUNK):
                pass

    def log_request(self, *args: Any) -> None:
        """Log nothing, as there are many calls."""

    def log_error(self, *args: Any) -> None:
        """Log nothing, as a client may close its connection at any time."""


class _Body(io.RawIOBase):
    """The body of a request, up to the length that its head says."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        length = environ.get("CONTENT_LENGTH") or "0"
        self.is_chunked = "HTTP_TRANSFER_ENCODING" in environ
        self._known = bool(_LENGTH.fullmatch(length)) and not self.is_chunked
        self._left = int(length) if self._known else 0
        self._source = environ["wsgi.input"]

    @property
    def was_read(self) -> bool:
        """Whether the connection's next byte begins the next request."""
        return self._known and not self._left

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        most = self._left if size is None or size < 0 else min(size, self._left)
        data: bytes = self._source.read(most)
        self._left -= len(data)
        if len(data) < most:
            raise ConnectionAbortedError("the client went away")
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Reply(SimpleHandler):
    """Writes the reply of the application."""

    http_version = "1.1"
    os_environ = {}  # noqa: RUF012  # a request must not see the process's environment
    status: str
    headers: Headers
    may_stay: Callable[[], bool]  # whether the request lets the connection stay open
    ends = True  # the connection, after this reply

    def cleanup_headers(self) -> None:
        super().cleanup_headers()
        if self.status.startswith(NO_CONTENT):
            del self.headers["Content-Length"]
        elif "Content-Length" not in self.headers:
            self.headers["Connection"] = "close"
            return
        self.ends = not self.may_stay()
        if self.ends:
            self.headers["Connection"] = "close"

    def handle_error(self) -> None:
        self.may_stay = lambda: False
        super().handle_error()
        self.ends = True
