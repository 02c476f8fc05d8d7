"""The API action of a request, and errors in the format of its protocol.

One rule: a request is only read; the next layer gets it unchanged.  Names, paths and
error codes come from botocore's descriptions of the services, so that botocore
understands the errors.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import botocore.session

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

SERVICES = ("autoscaling", "ec2", "s3", "sqs", "ssm", "sts")
TARGETS = {"AmazonSQS": "sqs", "AmazonSSM": "ssm"}  # prefix of X-Amz-Target: service
FORM = "application/x-www-form-urlencoded"
REQUEST_ID = "00000000-0000-0000-0000-00000000fa17"
SQS_SHAPES = {
    "NonExistentQueue": "QueueDoesNotExist",
    "QueueAlreadyExists": "QueueNameExists",
}
XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


@dataclass(frozen=True)
class Call:
    """The API action of a request."""

    service: str  # as botocore names it
    action: str  # "RunInstances"; empty if it is unknown
    is_json: bool  # the protocol, if the service has two

    @property
    def name(self) -> str:
        return f"{self.service}:{self.action}"


@dataclass(frozen=True)
class Answer:
    headers: tuple[tuple[str, str], ...]
    body: bytes


def call_of(environ: WSGIEnvironment) -> Call:
    """Return the action of a request; a form's body is read and put back."""
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    service = _service(environ, query)
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        prefix, _, action = target.partition(".")
        service = TARGETS.get(prefix, service)
        return Call(service, action, is_json=True)
    if service == "s3":
        return Call(service, _s3_action(environ, query), is_json=False)
    if environ.get("CONTENT_TYPE", "").startswith(FORM):
        query |= parse_qs(read_body(environ).decode(errors="replace"))
    return Call(service, query.get("Action", [""])[0], is_json=False)


def protocol_of(environ: WSGIEnvironment) -> Call:
    """Return the protocol of a request whose body is not to be read."""
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    service, is_json = _service(environ, query), False
    if target := environ.get("HTTP_X_AMZ_TARGET", ""):
        service, is_json = TARGETS.get(target.partition(".")[0], service), True
    return Call(service, "", is_json and service in SERVICES)


def read_body(environ: WSGIEnvironment) -> bytes:
    """Return the body of a request, which can be read again afterwards."""
    length = environ.get("CONTENT_LENGTH")
    if environ.get("wsgi.input_terminated"):
        body = environ["wsgi.input"].read()
    else:
        body = environ["wsgi.input"].read(int(length or 0))
    replace_body(environ, body)
    return bytes(body)


def replace_body(environ: WSGIEnvironment, body: bytes) -> None:
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))


def read() -> None:
    """Read what the first request to S3 would wait for."""
    _s3_routes()


@cache
def known() -> frozenset[str]:
    """All actions of all services of the cloud, as "ec2:RunInstances"."""
    return frozenset(
        f"{service}:{action}"
        for service in SERVICES
        for action in _model(service).operation_names
    )


def error(call: Call, code: str, message: str) -> Answer:
    """Return the error as the service of `call` would send it.

    The server removes the body of an answer to an S3 HEAD request, so that a client
    gets the HTTP status only, as on AWS.
    """
    if call.is_json:
        body = json.dumps(
            {"__type": _shape_name(call.service, code), "message": message}
        )
        headers = [("Content-Type", "application/x-amz-json-1.0")]
        if call.service == "sqs":
            headers.append(("x-amzn-query-error", f"{code};Sender"))
        return Answer(tuple(headers), body.encode())
    text = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if call.service == "ec2":
        body = f"<Response><Errors><Error>{text}</Error></Errors>"
        body += f"<RequestID>{REQUEST_ID}</RequestID></Response>"
    elif call.service == "s3":
        body = f"<Error>{text}<RequestId>{REQUEST_ID}</RequestId></Error>"
    else:
        body = f"<ErrorResponse><Error><Type>Sender</Type>{text}</Error>"
        body += f"<RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
    return Answer((("Content-Type", "text/xml"),), (XML + body).encode())


def _service(environ: WSGIEnvironment, query: Mapping[str, list[str]]) -> str:
    """Read the service from the signature; only a request to S3 may have none."""
    # AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, ...
    signed = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2]
    scope = (signed or query.get("X-Amz-Credential", [""])[0]).split(",")[0]
    parts = scope.split("/")
    return parts[3] if len(parts) > 3 else "s3"


@dataclass(frozen=True)
class _Route:
    """How an S3 action is recognized: by the required parts of its request."""

    action: str
    method: str
    depth: int  # 0: all buckets, 1: a bucket, 2: an object
    query: frozenset[tuple[str, str]]  # an empty value: any
    headers: frozenset[str]  # as WSGI names them

    def fits(self, environ: WSGIEnvironment, query: Mapping[str, list[str]]) -> bool:
        return all(
            name in query and value in ("", query[name][0])
            for name, value in self.query
        ) and all(header in environ for header in self.headers)


def _s3_action(environ: WSGIEnvironment, query: Mapping[str, list[str]]) -> str:
    """Return, of the actions that fit, the one with the most required parts."""
    bucket, _, key = environ.get("PATH_INFO", "").lstrip("/").partition("/")
    depth = 2 if key else 1 if bucket else 0
    routes = _s3_routes().get((environ["REQUEST_METHOD"], depth), ())
    fitting = [route for route in routes if route.fits(environ, query)]
    if not fitting:
        return ""
    return max(fitting, key=lambda route: len(route.query | route.headers)).action


@cache
def _s3_routes() -> dict[tuple[str, int], list[_Route]]:
    routes: dict[tuple[str, int], list[_Route]] = {}
    model = _model("s3")
    for action in model.operation_names:
        operation = model.operation_model(action)
        if not operation.deprecated:
            route = _route(action, operation)
            routes.setdefault((route.method, route.depth), []).append(route)
    return routes


def _route(action: str, operation: Any) -> _Route:
    uri = urlsplit(operation.http["requestUri"])  # "/{Bucket}/{Key+}?uploads"
    required: dict[str, list[str]] = {"querystring": [], "header": []}
    shape = operation.input_shape
    for name in shape.required_members if shape else ():
        place = shape.members[name].serialization
        if place.get("location") in required:
            required[place["location"]].append(place["name"])
    fixed = {(k, v[0]) for k, v in parse_qs(uri.query, keep_blank_values=True).items()}
    return _Route(
        action,
        operation.http["method"],
        depth=len([part for part in uri.path.split("/") if part]),
        query=frozenset(fixed | {(name, "") for name in required["querystring"]}),
        headers=frozenset(
            "HTTP_" + name.upper().replace("-", "_") for name in required["header"]
        ),
    )


def _shape_name(service: str, code: str) -> str:
    """Return the name of an error code in the JSON protocol.

    botocore raises SQS's own exceptions by these names, which its model does not link
    to the codes (https://github.com/boto/botocore, `_handle_sqs_compatible_error`).
    """
    if service == "sqs":
        name = code.removeprefix("AWS.SimpleQueueService.")
        return SQS_SHAPES.get(name, name)
    for shape in _model(service).error_shapes:
        if shape.metadata.get("error", {}).get("code") == code:
            return str(shape.name)
    return code


@cache
def _model(service: str) -> Any:
    return _session().get_service_model(service)


@cache
def _session() -> botocore.session.Session:
    return botocore.session.get_session()
