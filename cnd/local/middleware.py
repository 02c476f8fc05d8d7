"""What stands between the HTTP server and moto: layers round a WSGI application.

One rule: a layer is a function from application to application; `server.build`
lists them, outermost first.  Fault injection by action belongs in that list.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cnd.local.settings import Delay

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    Layer = Callable[[WSGIApplication], WSGIApplication]

STATUS_PATH, TOUCH_PATH, ADDRESS_PATH = "/cnd/status", "/cnd/touch", "/checkip"


class Activity:
    """When somebody last asked for something; a call is activity until its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0  # now
        self._last = time.monotonic()

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


def control(status: Callable[[], dict[str, Any]], touch: Callable[[], None]) -> Layer:
    """Answer the cloud's own addresses: its status, and the caller's address.

    Asking for the status does not keep the cloud from ending when idle;
    asking for TOUCH_PATH, which answers the same, does.
    """

    def layer(application: WSGIApplication) -> WSGIApplication:
        def controlled(
            environ: WSGIEnvironment, start: StartResponse
        ) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path in (STATUS_PATH, TOUCH_PATH):
                if path == TOUCH_PATH:
                    touch()
                body = json.dumps(status()).encode() + b"\n"
                return _answer(start, "200 OK", "application/json", body)
            if path == ADDRESS_PATH:
                body = environ["REMOTE_ADDR"].encode() + b"\n"
                return _answer(start, "200 OK", "text/plain", body)
            return application(environ, start)

        return controlled

    return layer


def delayed(delay: Delay) -> Layer:
    """Let every API call take `delay` longer."""

    def layer(application: WSGIApplication) -> WSGIApplication:
        if delay.high <= 0:
            return application

        def later(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            time.sleep(delay.draw())
            return application(environ, start)

        return later

    return layer


def _answer(
    start: StartResponse, status: str, kind: str, body: bytes
) -> Iterable[bytes]:
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
