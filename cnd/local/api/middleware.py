"""The layers between the HTTP server and moto, each round a WSGI application.

One rule: a layer is a function from application to application; the server lists the
layers, the outermost first.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from cnd.errors import UsageError
from cnd.local.api import callers
from cnd.local.api.faults import ApiFault, FaultRegistry
from cnd.local.settings import Delay

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from cnd.local.api.actions import Answer, Call
    from cnd.local.api.signatures import Keys

    Layer = Callable[[WSGIApplication], WSGIApplication]

STATUS_PATH, TOUCH_PATH, ADDRESS_PATH = "/cnd/status", "/cnd/touch", "/checkip"
FLEET_SIZE = "TargetCapacitySpecification.TotalTargetCapacity"
FAULTS_PATH = "/faults"
MOST_BYTES = 1 << 16  # of the description of a fault


class Activity:
    """The time of the last call, and the number of calls by action.

    A call is activity until it ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0  # now
        self._last = time.monotonic()
        self._counts: Counter[str] = Counter()  # by action

    def count(self, action: str) -> None:
        with self._lock:
            self._counts[action] += 1

    @property
    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def touch(self, *, calls: int = 0) -> None:
        with self._lock:
            self._calls += calls
            self._last = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        return 0.0 if self._calls else time.monotonic() - self._last

    def layer(self, application: WSGIApplication) -> WSGIApplication:
        def watched(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            self.touch(calls=1)
            try:
                return application(environ, start)
            finally:
                self.touch(calls=-1)

        return watched


def programs_only(application: WSGIApplication) -> WSGIApplication:
    """Refuse requests that are not of a program of the user: see `callers`."""

    def refusing(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if refused := callers.refusal(environ):
            status, reason = refused
            body = reason.encode() + b"\n"
            return _answer(start, _status_line(status), "text/plain", body)
        return application(environ, start)

    return refusing


def with_token(token: str, inner: WSGIApplication) -> Layer:
    """Let `inner` answer requests with a token, if it is the cloud's token.

    All other requests are API calls, with any path, as a bucket may have any name.
    """

    def layer(application: WSGIApplication) -> WSGIApplication:
        def chosen(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            if callers.TOKEN not in environ:
                return application(environ, start)
            if not callers.has_token(environ, token):
                return _json(start, 403, {"error": "this is not the cloud's token"})
            return inner(environ, start)

        return chosen

    return layer


def signed(keys: Callable[[], Keys]) -> Layer:
    """Accept only requests that are signed with this key: see `signatures`."""

    def layer(application: WSGIApplication) -> WSGIApplication:
        def checked(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"] == ADDRESS_PATH and not _is_signed(environ):
                body = environ["REMOTE_ADDR"].encode() + b"\n"
                return _answer(start, "200 OK", "text/plain", body)
            # Imported here, as botocore would delay the server's start.
            from cnd.local.api import actions, signatures
            from cnd.local.api.forms import Refused

            try:
                signatures.check(environ, keys(), time.time())
            except Refused as refused:
                call = actions.protocol_of(environ)
                answer = actions.error(call, refused.code, refused.message)
                return refuse(environ, start, 403, answer)
            return application(environ, start)

        return checked

    return layer


def not_found(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    return _json(start, 404, {"error": f"nothing is at {environ['PATH_INFO']}"})


def control(status: Callable[[], dict[str, Any]], touch: Callable[[], None]) -> Layer:
    """Answer requests for the cloud's status.

    A request for STATUS_PATH is no activity: the idle cloud still ends.  One for
    TOUCH_PATH, with the same answer, is activity.
    """

    def layer(application: WSGIApplication) -> WSGIApplication:
        def controlled(
            environ: WSGIEnvironment, start: StartResponse
        ) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path in (STATUS_PATH, TOUCH_PATH):
                if path == TOUCH_PATH:
                    touch()
                return _json(start, 200, status())
            return application(environ, start)

        return controlled

    return layer


def delayed(delay: Delay) -> Layer:
    """Delay every API call."""

    def layer(application: WSGIApplication) -> WSGIApplication:
        if delay.high <= 0:
            return application

        def later(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            time.sleep(delay.draw())
            return application(environ, start)

        return later

    return layer


def fault_control(
    lay: Callable[[Any], Any], listed: Callable[[], Any], clear: Callable[[], Any]
) -> Layer:
    """Answer FAULTS_PATH: POST adds a fault, GET lists the faults, DELETE removes all.

    `lay` gets the JSON value of the body.
    """

    def layer(application: WSGIApplication) -> WSGIApplication:
        def controlled(
            environ: WSGIEnvironment, start: StartResponse
        ) -> Iterable[bytes]:
            if environ["PATH_INFO"] != FAULTS_PATH:
                return application(environ, start)
            method = environ["REQUEST_METHOD"]
            try:
                if method == "POST":
                    return _json(start, 200, lay(_json_body(environ)))
                if method == "DELETE":
                    return _json(start, 200, clear())
                return _json(start, 200, listed())
            except UsageError as error:
                return _json(start, 400, {"error": str(error), "hint": error.hint})

        return controlled

    return layer


def counted(count: Callable[[str], None]) -> Layer:
    """Call `count` for every accepted API call, with a name as "ec2:RunInstances"."""

    def layer(application: WSGIApplication) -> WSGIApplication:
        def counting(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            # Imported here, as botocore would delay the server's start.
            from cnd.local.api import actions

            count(actions.call_of(environ).name)
            return application(environ, start)

        return counting

    return layer


def faulty(registry: FaultRegistry) -> Layer:
    """Apply the faults of `registry` to API calls."""

    def layer(application: WSGIApplication) -> WSGIApplication:
        def struck(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            if not registry.has_open():
                return application(environ, start)
            # Imported here, as botocore would delay the server's start.
            from cnd.local.api import actions

            call = actions.call_of(environ)
            fault = registry.take(call.name)
            if fault is None:
                return application(environ, start)
            return _inject(fault, call, application, environ, start)

        return struck

    return layer


def _inject(
    fault: ApiFault,
    call: Call,
    application: WSGIApplication,
    environ: WSGIEnvironment,
    start: StartResponse,
) -> Iterable[bytes]:
    from cnd.local.api import actions

    # Read the body even if it is not used: the rest of a body would be taken for the
    # next request of the connection.
    body = actions.read_body(environ)
    time.sleep(fault.delay)
    if fault.lost_reply:
        b"".join(application(environ, lambda *_: lambda _: None))
    if fault.reset or fault.lost_reply:
        reset(environ["werkzeug.socket"])
        raise ConnectionResetError("a fault")  # as if the client had reset it
    code, status = fault.code, fault.http
    if fault.at_most and call.action == "CreateFleet":
        asked = dict(parse_qsl(body.decode()))
        most = min(int(asked[FLEET_SIZE]), fault.at_most)
        fewer = urlencode({**asked, FLEET_SIZE: most})
        actions.replace_body(environ, fewer.encode())
    elif fault.at_most:
        asked = dict(parse_qsl(body.decode()))
        if int(asked.get("MinCount", 1)) > fault.at_most:
            code, status = "InsufficientInstanceCapacity", 500
        else:
            most = min(int(asked.get("MaxCount", 1)), fault.at_most)
            fewer = urlencode({**asked, "MaxCount": most})
            actions.replace_body(environ, fewer.encode())
    if not code:
        return application(environ, start)
    answer = actions.error(call, code, fault.message or "A fault was injected.")
    return refuse(environ, start, status, answer)


def refuse(
    environ: WSGIEnvironment, start: StartResponse, status: int, answer: Answer
) -> Iterable[bytes]:
    """Answer with an error of a service."""
    content = b"" if environ["REQUEST_METHOD"] == "HEAD" else answer.body
    length = ("Content-Length", str(len(content)))
    start(_status_line(status), [*answer.headers, length])
    return [content]


def reset(connection: socket.socket) -> None:
    """End a TCP connection with a reset, even if others still use the socket.

    A closed socket takes its descriptor, so that further reads find the end.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    dead, other = socket.socketpair()
    other.close()
    with dead:
        os.dup2(dead.fileno(), connection.fileno(), inheritable=False)


def _is_signed(environ: WSGIEnvironment) -> bool:
    """Tell whether a request is signed: then it is for a bucket of that name."""
    in_query = "X-Amz-Signature=" in environ.get("QUERY_STRING", "")
    return "HTTP_AUTHORIZATION" in environ or in_query


def _json_body(environ: WSGIEnvironment) -> Any:
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > MOST_BYTES:
        raise UsageError(f"a fault is described in at most {MOST_BYTES} bytes")
    try:
        return json.loads(environ["wsgi.input"].read(int(length)))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"a fault is described in JSON: {error}") from error


def _json(start: StartResponse, status: int, value: Any) -> Iterable[bytes]:
    body = json.dumps(value).encode() + b"\n"
    return _answer(start, _status_line(status), "application/json", body)


def _status_line(status: int) -> str:
    known = status in HTTPStatus.__members__.values()
    return f"{status} {HTTPStatus(status).phrase if known else 'Fault'}"


def _answer(
    start: StartResponse, status: str, kind: str, body: bytes
) -> Iterable[bytes]:
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
