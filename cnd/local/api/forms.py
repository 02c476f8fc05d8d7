"""S3's signed forms: what a policy allows, and whether a form complies with it.

One rule: the policy is checked before a byte of the file is read; a field that it does
not mention is refused, as on S3.  The signature is not checked here.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html
"""

from __future__ import annotations

import base64
import calendar
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import (
    Data,
    Epilogue,
    Event,
    Field,
    File,
    MultipartDecoder,
    NeedData,
)

MOST_FIELD_BYTES = 1 << 16  # of all fields together; S3 accepts 20 KB
MOST_AT_ONCE = 4 << 20  # bytes that are parsed at once
MOST_FIELDS = 100
# Fields that a policy need not mention, besides all that begin with "x-ignore-".
EXEMPT = ("file", "policy", "x-amz-signature")
TIMES = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ")


class Refused(Exception):
    """A refused request: the error code of its service, and the reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True)
class Policy:
    """The allowed sizes of a form's file."""

    least: int = 0  # bytes
    most: float = math.inf

    def within(self, least: int, most: int) -> Policy:
        return Policy(max(self.least, least), min(self.most, most))


def policy(text: str, fields: Mapping[str, str], bucket: str, now: float) -> Policy:
    """Return what a policy allows for the file; `Refused` if it forbids the fields.

    Args:
        text: the policy, as base64 of JSON.
        fields: of the form, before the file; their names in lower case.
        bucket: to which the form is sent.
        now: seconds since the epoch.
    """
    try:
        record = json.loads(base64.b64decode(text, validate=True))
        expires, conditions = _seconds(record["expiration"]), record["conditions"]
        rules = [rule for condition in conditions for rule in _rules(condition)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Refused("AccessDenied", "Invalid policy document") from None
    if "key" not in fields:
        raise Refused("AccessDenied", "A form must have the field key.")
    if now > expires:
        raise Refused("AccessDenied", "Invalid according to Policy: Policy expired.")
    values = {**fields, "bucket": bucket}
    found = Policy()
    for kind, name, value in rules:
        if kind == "content-length-range":
            found = found.within(int(name), int(value))
        elif not _holds(kind, values.get(name, ""), value):
            message = f"Invalid according to Policy: Policy Condition failed: {name}"
            raise Refused("AccessDenied", message)
    mentioned = {name for _, name, _ in rules} | {*EXEMPT, "bucket"}
    for name in fields:
        if name not in mentioned and not name.startswith("x-ignore-"):
            message = f"Invalid according to Policy: Extra input fields: {name}"
            raise Refused("AccessDenied", message)
    return found


def _seconds(text: str) -> int:
    for form in TIMES:
        try:
            return calendar.timegm(time.strptime(text, form))
        except ValueError:
            continue
    raise ValueError(text)


def _rules(condition: Any) -> Iterator[tuple[str, str, str]]:
    """Yield the rules of a condition: ["eq", "$key", "a"], {"key": "a"} or a range."""
    if isinstance(condition, dict):
        for name, value in condition.items():
            yield "eq", name.lower(), str(value)
        return
    kind, name, value = condition
    if kind == "content-length-range":
        yield kind, str(int(name)), str(int(value))
    elif kind in ("eq", "starts-with") and name.startswith("$"):
        yield kind, name[1:].lower(), str(value)
    else:
        raise ValueError(condition)


def _holds(kind: str, value: str, wanted: str) -> bool:
    return value.startswith(wanted) if kind == "starts-with" else value == wanted


def read(
    body: Iterator[bytes], content_type: str, admit: Callable[[dict[str, str]], Policy]
) -> None:
    """Read a form to its end; `Refused` if it is invalid, or its file has a wrong size.

    Args:
        admit: checks the fields, once, before the file is read.
    """
    allowed, size, ended = None, 0, False
    fields = _Fields()
    for event in _events(body, content_type):
        if allowed is None:
            if isinstance(event, (Field, File)) and event.name == "file":
                allowed = admit(fields.whole())
            else:
                fields.take(event)
        elif isinstance(event, Data) and not ended:
            size += len(event.data)
            ended = not event.more_data
            if size > allowed.most:
                raise Refused("EntityTooLarge", "The file is larger than allowed.")
        elif not isinstance(event, Epilogue):
            raise Refused("AccessDenied", "The file must be the form's last field.")
    if allowed is None or not ended:
        raise Refused("AccessDenied", "A form must have a file.")
    if size < allowed.least:
        raise Refused("EntityTooSmall", "The file is smaller than allowed.")


class _Fields:
    """The fields before the file."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._name = ""
        self._size = 0

    def take(self, event: Event) -> None:
        if isinstance(event, (Field, File)):
            self._name = str(event.name)
            if isinstance(event, File) or self._name in self._values:
                message = f"The field {self._name!r} is there twice, or has a file."
                raise Refused("AccessDenied", message)
            if len(self._values) == MOST_FIELDS:
                raise Refused("AccessDenied", f"More than {MOST_FIELDS} fields.")
            self._values[self._name] = b""
        elif isinstance(event, Data):
            self._size += len(event.data)
            if self._size > MOST_FIELD_BYTES:
                raise Refused("AccessDenied", f"More than {MOST_FIELD_BYTES} bytes.")
            self._values[self._name] += event.data

    def whole(self) -> dict[str, str]:
        """Return the fields by name in lower case; `Refused` if two are the same."""
        found = {n.lower(): v.decode(errors="replace") for n, v in self._values.items()}
        if len(found) < len(self._values):
            raise Refused("AccessDenied", "Two fields have the same name.")
        return found


def _events(body: Iterator[bytes], content_type: str) -> Iterator[Event]:
    """Parse a form; `Refused` if it is invalid."""
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    try:
        decoder = MultipartDecoder(boundary.encode("latin-1"), MOST_AT_ONCE)
        for data in body:
            decoder.receive_data(data)
            while not isinstance(event := decoder.next_event(), NeedData):
                yield event
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), (NeedData, Epilogue)):
            yield event
    except (ValueError, RequestEntityTooLarge) as error:
        raise Refused("AccessDenied", f"Not a form: {error}") from None
