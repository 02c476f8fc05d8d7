"""The layer between HTTP and moto that acts out the weather.

One rule: `habits`, `buckets`, `requests` and `replies` decide; this file has the clock
and the sockets, and applies what they decide to a call, in the order of AWS: refused
for its rate, failed, unknown, executed, answered.
"""

from __future__ import annotations

import json
import select
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnd.local.api.weather import habits, replies, requests
from cnd.local.api.weather.buckets import Throttle
from cnd.local.api.weather.instances import InstanceTimes
from cnd.local.api.weather.requests import Request
from cnd.local.api.weather.resources import Resources
from cnd.local.host.guard import guarded
from cnd.local.weather import Weather

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MOST_PAGES = 256  # that are kept until they are asked for
LOOK_SECONDS = 0.1  # between two looks whether a client has given up
# Service -> the errors of a bad day, each with its HTTP status.
FAILURES = {
    "ec2": (("InternalError", 500), ("Unavailable", 503), ("ServiceUnavailable", 503)),
    "s3": (("InternalError", 500), ("SlowDown", 503)),
}
OTHER_FAILURES = (("InternalFailure", 500), ("ServiceUnavailable", 503))
FAILED = "An internal error has occurred. Please retry your request."
THROTTLED = "Request limit exceeded."
BUSY = (
    "You cannot delete an AutoScalingGroup while there are scaling activities in "
    "progress for that group."
)
ABORTED = (
    "A conflicting conditional operation is currently in progress against this "
    "resource. Please try again."
)
RECENTLY = (
    "You must wait 60 seconds after deleting a queue before you can create another "
    "with the same name."
)


@dataclass(frozen=True)
class Refusal:
    """An error instead of the effect of a call."""

    code: str
    http: int
    message: str


@dataclass(frozen=True)
class Reply:
    """What an application has answered."""

    status: str  # "200 OK"
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def is_success(self) -> bool:
        return self.status.startswith("2")


class Sky:
    """The weather of one cloud, with what it has to remember of the calls so far."""

    def __init__(
        self,
        weather: Weather,
        times: InstanceTimes,
        resources: Resources,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.weather, self._times, self._resources = weather, times, resources
        self._clock = clock
        self._lock = threading.Lock()
        self._throttle = Throttle()
        self._pages: OrderedDict[str, bytes] = OrderedDict()
        self._tokens: set[str] = set()  # of the fleets that were made
        self._ending: set[str] = set()  # queues
        self._sizes: dict[str, tuple[str, ...]] = {}  # of Auto Scaling groups

    def _has(self, habit: str) -> bool:
        return habit in self.weather.habits

    # --- before the effect

    def refusal(self, request: Request) -> Refusal | None:
        """Return why a call has no effect, if it has none."""
        return (
            self._throttled(request)
            or self._not_known(request)
            or self._name_in_use(request)
            or self._busy(request)
        )

    def _throttled(self, request: Request) -> Refusal | None:
        if not self._has("throttle") or request.call.service != "ec2":
            return None
        action, parameters = request.call.action, request.parameters
        with self._lock:
            if self._throttle.passes(request.region, action, parameters, self._clock()):
                return None
        return Refusal("RequestLimitExceeded", 503, THROTTLED)

    def _not_known(self, request: Request) -> Refusal | None:
        if not self._has("unknown"):
            return None
        for kind, name in requests.named(request):
            if self._resources.is_unknown(kind, name):
                code, http, message = requests.UNKNOWN[kind]
                return Refusal(code, http, message.format(name))
        return None

    def _name_in_use(self, request: Request) -> Refusal | None:
        name = request.call.name
        if name == "s3:CreateBucket" and self._has("buckets"):
            bucket = request.parameters["Bucket"]
            age = self._resources.age("removed bucket", bucket)
            if age < float("inf"):
                number = self._resources.number("removed bucket", bucket)
                if age < habits.bucket_seconds(self.weather.seed, number):
                    return Refusal("OperationAborted", 409, ABORTED)
        if name == "sqs:CreateQueue":
            with self._lock:
                if request.parameters.get("QueueName") in self._ending:
                    code = "AWS.SimpleQueueService.QueueDeletedRecently"
                    return Refusal(code, 400, RECENTLY)
        return None

    def _busy(self, request: Request) -> Refusal | None:
        if request.call.service != "autoscaling" or not self._has("groups"):
            return None
        group = request.parameters.get("AutoScalingGroupName", "")
        if request.call.action != "DeleteAutoScalingGroup":
            self._note_size(group, requests.group_size(request))
            return None
        age = self._resources.age("group size", group)
        number = self._resources.number("busy group", group)
        if habits.is_busy(self.weather.seed, number, age):
            return Refusal("ScalingActivityInProgress", 400, BUSY)
        return None

    def _note_size(self, group: str, size: tuple[str, ...]) -> None:
        """Note when a group got another size: only that starts activities."""
        with self._lock:
            is_new = bool(size) and self._sizes.get(group) != size
            if is_new:
                self._sizes[group] = size
        if is_new:
            self._resources.add("group size", group)

    def failure(self, request: Request) -> tuple[str, Refusal | None]:
        """Return when a call fails ("before" its effect, "after" it, ""), and how."""
        if not self._has("errors"):
            return "", None
        number = self._resources.next("call")
        when = habits.error(self.weather.seed, number)
        kinds = FAILURES.get(request.call.service, OTHER_FAILURES)
        share = habits.draw(self.weather.seed, "error kind", number)
        code, http = kinds[int(share * len(kinds))]
        return when, Refusal(code, http, FAILED) if when else None

    def late_by(self, request: Request) -> float:
        """Return how many seconds late the answer comes."""
        if not self._has("timeout") or not request.changes:
            return 0.0
        number = self._resources.next("change")
        return habits.late_by(self.weather.seed, number, is_launch=request.is_launch)

    def stored_page(self, request: Request) -> bytes | None:
        """Return a page of a list that was cut into pages, as often as asked for."""
        token = request.parameters.get("NextToken", "")
        with self._lock:
            return self._pages.get(token)

    def postponed(self, request: Request) -> float:
        """Return how many seconds after its answer a call has its effect.

        A queue that is being deleted answers until then.
        """
        if request.call.name != "sqs:DeleteQueue" or not self._has("queues"):
            return 0.0
        queue = request.parameters.get("QueueUrl", "").rpartition("/")[2]
        number = self._resources.number("ending queue", queue)
        with self._lock:
            self._ending.add(queue)
        return habits.queue_end_seconds(self.weather.seed, number)

    def ended(self, request: Request) -> None:
        """Note that a postponed call has had its effect."""
        queue = request.parameters.get("QueueUrl", "").rpartition("/")[2]
        with self._lock:
            self._ending.discard(queue)

    # --- after the effect

    def learn(self, request: Request, reply: bytes) -> None:
        """Note what a successful call has made, ended or asked for."""
        for kind, name in requests.made(request, reply):
            self._resources.add(kind, name)
        name, parameters = request.call.name, request.parameters
        if name == "s3:DeleteBucket":
            self._resources.add("removed bucket", parameters["Bucket"])
        elif parameters.get("SkipOsShutdown", "").lower() == "true":
            found = [v for k, v in parameters.items() if k.startswith("InstanceId")]
            self._times.skip_shutdown(found)

    def changed(self, request: Request, reply: bytes) -> bytes:
        """Return the answer to a successful call as the weather shows it."""
        if request.call.service != "ec2":
            return reply
        action = request.call.action
        if action == "CreateFleet" and self._has("replay"):
            return self._replayed(request, reply)
        if self._has("unknown") and not request.changes:
            reply = replies.without_unknown(action, reply, self._resources.is_unknown)
        if action == "DescribeInstances" and self._has("pages"):
            reply = self._first_page(request, reply)
        return reply

    def _replayed(self, request: Request, reply: bytes) -> bytes:
        token = request.parameters.get("ClientToken", "")
        with self._lock:
            again = bool(token) and token in self._tokens
            self._tokens.add(token)
        return replies.without_instances(reply) if again else reply

    def _first_page(self, request: Request, reply: bytes) -> bytes:
        if any(name.startswith("InstanceId.") for name in request.parameters):
            return reply  # such a list has no pages
        if request.parameters.get("NextToken"):
            return reply  # it is a page already
        call = self._resources.next("list")
        size = habits.page_size(self.weather.seed, call)
        if size is None or replies.has_token(reply):
            return reply
        fault = habits.page_fault(self.weather.seed, call)
        pages = replies.pages(reply, size, fault)
        with self._lock:
            for number in range(len(pages) - 1, 0, -1):
                token = f"page-{call}-{number}"
                self._pages[token] = pages[number]
                pages[number - 1] = replies.with_token(pages[number - 1], token)
            while len(self._pages) > MOST_PAGES:
                self._pages.popitem(last=False)
        return pages[0]


def weathered(sky: Sky) -> Callable[[WSGIApplication], WSGIApplication]:
    """Return the layer that gives a cloud its weather; none if it is calm."""

    def layer(application: WSGIApplication) -> WSGIApplication:
        if not sky.weather:
            return application

        def stormy(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            return _answered(sky, application, environ, start)

        return stormy

    return layer


def _answered(
    sky: Sky,
    application: WSGIApplication,
    environ: WSGIEnvironment,
    start: StartResponse,
) -> Iterable[bytes]:
    request = requests.read(environ)
    when, failure = sky.failure(request)
    refusal = failure if when == "before" else sky.refusal(request)
    if refusal:
        return _send(environ, start, _error(request, refusal))
    if seconds := sky.postponed(request):
        _later(seconds, sky, application, dict(environ), request)
        return _send(environ, start, _done(request))
    page = sky.stored_page(request)
    reply = _executed(application, environ) if page is None else _xml(page)
    if reply.is_success:
        sky.learn(request, reply.body)
        reply = _with_body(reply, sky.changed(request, reply.body))
        if failure:
            reply = _error(request, failure)
    if late := sky.late_by(request):
        _wait(environ, late)
    return _send(environ, start, reply)


def _executed(application: WSGIApplication, environ: WSGIEnvironment) -> Reply:
    """Return the whole answer of an application."""
    told: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
        told[:] = [status, headers]
        return lambda _: None

    parts = application(environ, start)
    try:
        body = b"".join(parts)
    finally:
        if close := getattr(parts, "close", None):
            close()
    return Reply(told[0], tuple(told[1]), body)


def _with_body(reply: Reply, body: bytes) -> Reply:
    if body is reply.body:
        return reply
    headers = [pair for pair in reply.headers if pair[0].lower() != "content-length"]
    return Reply(reply.status, (*headers, ("Content-Length", str(len(body)))), body)


def _xml(body: bytes) -> Reply:
    return Reply(
        "200 OK",
        (("Content-Type", "text/xml"), ("Content-Length", str(len(body)))),
        body,
    )


def _error(request: Request, refusal: Refusal) -> Reply:
    # Imported here, as botocore would delay the server's start.
    from cnd.local.api import actions

    answer = actions.error(request.call, refusal.code, refusal.message)
    length = ("Content-Length", str(len(answer.body)))
    status = f"{refusal.http} {'Error' if refusal.http < 500 else 'Failure'}"
    return Reply(status, (*answer.headers, length), answer.body)


def _done(request: Request) -> Reply:
    """Return the answer to a call of SQS that says no more than that it was done."""
    if request.call.is_json:
        body = json.dumps({}).encode()
        kind = "application/x-amz-json-1.0"
    else:
        action = request.call.action
        body = f"<{action}Response><ResponseMetadata/></{action}Response>".encode()
        kind = "text/xml"
    headers = (("Content-Type", kind), ("Content-Length", str(len(body))))
    return Reply("200 OK", headers, body)


def _send(
    environ: WSGIEnvironment, start: StartResponse, reply: Reply
) -> Iterable[bytes]:
    headers, body = list(reply.headers), reply.body
    if environ["REQUEST_METHOD"] == "HEAD" and not reply.is_success:
        headers = [pair for pair in headers if pair[0].lower() != "content-length"]
        headers, body = [*headers, ("Content-Length", "0")], b""
    start(reply.status, headers)
    return [body]


def _later(
    seconds: float,
    sky: Sky,
    application: WSGIApplication,
    environ: WSGIEnvironment,
    request: Request,
) -> None:
    """Execute a call after so many seconds, if the cloud still lives then."""

    def execute() -> None:
        with guarded(f"the postponed {request.call.name}"):
            _executed(application, environ)
        sky.ended(request)

    timer = threading.Timer(seconds, execute)
    timer.daemon = True
    timer.start()


def _wait(environ: WSGIEnvironment, seconds: float) -> None:
    """Wait before an answer, no longer than the client does."""
    deadline = time.monotonic() + seconds
    connection = environ["werkzeug.socket"]
    while (left := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([connection], [], [], min(left, LOOK_SECONDS))
        if readable:  # a client that waits sends nothing: it has closed the connection
            raise ConnectionResetError("the client has given up")
