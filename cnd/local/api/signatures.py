"""Whether a request is signed with the cloud's key: AWS Signature Version 4.

One rule: botocore's own signers compute the expected signature, from exactly the parts
of the request that moto uses.  A request with no signature, with another one, or with
an expired one is refused; so is one without the token of temporary credentials.

Not checked: the signatures of the single chunks of a streamed body (that of its head is
checked).
"""

from __future__ import annotations

import hashlib
import hmac
import io
import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from botocore.auth import (
    UNSIGNED_PAYLOAD,
    S3SigV4Auth,
    S3SigV4QueryAuth,
    SigV4Auth,
    SigV4QueryAuth,
)
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import ReadOnlyCredentials

from cnd.local.api import forms
from cnd.local.api.callers import HEADERS
from cnd.local.api.forms import Refused

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

SKEW_SECONDS = 900  # between the caller's clock and the cloud's, as on AWS
LONGEST_SECONDS = 7 * 24 * 3600  # validity of a pre-signed URL
# Bytes of a body.  Without a hash in its head the whole body must be read before the
# signature can be checked; larger bodies are sent to S3 only, with a hash in the head.
MOST_UNHASHED = 16 << 20
MOST_BYTES = 5 << 30  # of one request to S3
IN_MEMORY = 8 << 20  # a larger body is kept in an unnamed file until it is checked
CHUNK = 1 << 20

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=(?P<credential>[^\s,]+) *,"
    r" *SignedHeaders=(?P<headers>[^\s,]+) *, *Signature=(?P<signature>[0-9a-f]{64})"
)
_CREDENTIAL = re.compile(r"([^/]+)/(\d{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request")
_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}")
# Error codes for a caller whose temporary credentials have expired.
_EXPIRED = {"ec2": "RequestExpired"}
# Error codes for a caller whose clock is wrong.
_LATE = {"s3": "RequestTimeTooSkewed", "ec2": "RequestExpired"}


@dataclass(frozen=True)
class Keys:
    """The credentials of the cloud's only caller."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)  # of temporary ones
    expires: float = math.inf  # seconds since the epoch


@dataclass(frozen=True)
class Claim:
    """The signature of a request, with its parameters."""

    credential: str  # KEY/DATE/REGION/SERVICE/aws4_request
    stamp: str  # "20261123T101112Z"
    signature: str
    headers: tuple[str, ...] = ()  # the names of the signed headers
    in_query: bool = False  # of a pre-signed URL


@dataclass(frozen=True)
class Scope:
    """When and for which service a signature was made, as the signature says."""

    stamp: str
    seconds: int  # since the epoch
    region: str
    service: str


UNSIGNED = (
    "A request must be signed (version 4) with the key of the local cloud: "
    "`fab local up` prints it. boto3 makes such URLs with "
    "Config(signature_version='s3v4')."
)


def check(environ: WSGIEnvironment, caller: Keys, now: float) -> None:
    """Raise `Refused` unless this key signed the request; its body stays readable.

    Args:
        environ: of WSGI, with HEADERS.
        now: seconds since the epoch.
    """
    keys = ReadOnlyCredentials(caller.access_key, caller.secret_key, None)
    query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    if environ.get("HTTP_AUTHORIZATION"):
        scope = _check_header(environ, query, keys, now)
        token = environ.get("HTTP_X_AMZ_SECURITY_TOKEN", "")
        _check_session(caller, token, scope.service, now)
    elif any(name == "X-Amz-Signature" for name, _ in query):
        scope = _check_query(environ, query, keys, now)
        token = dict(query).get("X-Amz-Security-Token", "")
        _check_session(caller, token, scope.service, now)
    elif environ.get("CONTENT_TYPE", "").lower().startswith("multipart/form-data"):
        token = _check_form(environ, keys, now)
        _check_session(caller, token, "s3", now)
    else:
        raise Refused("AccessDenied", UNSIGNED)


def _check_session(caller: Keys, token: str, service: str, now: float) -> None:
    """Refuse temporary credentials without their token, or after their end."""
    if not caller.session_token:
        return
    if not hmac.compare_digest(token.encode(), caller.session_token.encode()):
        code = "InvalidToken" if service == "s3" else "InvalidClientTokenId"
        raise Refused(code, "The security token included in the request is invalid.")
    if now > caller.expires:
        code = _EXPIRED.get(service, "ExpiredToken")
        text = "The security token included in the request is expired"
        raise Refused(code, text)


def _check_header(
    environ: WSGIEnvironment,
    query: list[tuple[str, str]],
    keys: ReadOnlyCredentials,
    now: float,
) -> Scope:
    found = _AUTHORIZATION.fullmatch(environ["HTTP_AUTHORIZATION"].strip())
    if found is None:
        raise Refused("AccessDenied", UNSIGNED)
    # A pre-signed URL whose signature is moved here would be valid for ever.
    if any(name.lower().startswith("x-amz-") for name, _ in query):
        raise Refused("AccessDenied", "A request is signed in one way only.")
    stamp = environ.get("HTTP_X_AMZ_DATE", "")
    names = tuple(found["headers"].split(";"))
    claim = Claim(found["credential"], stamp, found["signature"], names)
    scope = _scope(claim, keys)
    if abs(now - scope.seconds) > SKEW_SECONDS:
        code = _LATE.get(scope.service, "SignatureDoesNotMatch")
        raise Refused(code, f"Signature expired or not yet current: {stamp}")
    _compare(environ, query, claim, scope, keys)
    return scope


def _check_query(
    environ: WSGIEnvironment,
    query: list[tuple[str, str]],
    keys: ReadOnlyCredentials,
    now: float,
) -> Scope:
    values = dict(query)
    if len(values) < len(query):
        message = "A pre-signed URL must have each parameter once."
        raise Refused("AccessDenied", message)
    claim = Claim(
        values.get("X-Amz-Credential", ""),
        values.get("X-Amz-Date", ""),
        values.pop("X-Amz-Signature"),
        tuple(values.get("X-Amz-SignedHeaders", "").split(";")),
        in_query=True,
    )
    scope = _scope(claim, keys)
    life = values.get("X-Amz-Expires", "")
    if not re.fullmatch("[0-9]{1,6}", life) or not 0 < int(life) <= LONGEST_SECONDS:
        message = f"X-Amz-Expires must be 1 to {LONGEST_SECONDS}."
        raise Refused("AccessDenied", message)
    if not -SKEW_SECONDS <= now - scope.seconds <= int(life):
        raise Refused("AccessDenied", "Request has expired")
    _compare(environ, list(values.items()), claim, scope, keys)
    _show_service(environ, claim)
    return scope


def _check_form(environ: WSGIEnvironment, keys: ReadOnlyCredentials, now: float) -> str:
    """Check a signed form of S3: its policy, and that its file complies with it.

    Return its session token.
    """
    tokens: list[str] = []
    if environ["REQUEST_METHOD"] != "POST" or environ.get("QUERY_STRING"):
        raise Refused("AccessDenied", UNSIGNED)
    bucket = environ["PATH_INFO"].strip("/")
    if not bucket or "/" in bucket:
        raise Refused("AccessDenied", "A signed form is sent to a bucket.")
    body = _Body(environ, MOST_BYTES)

    def admit(fields: dict[str, str]) -> forms.Policy:
        claim = Claim(
            fields.get("x-amz-credential", ""),
            fields.get("x-amz-date", ""),
            fields.get("x-amz-signature", ""),
        )
        scope, policy = _scope(claim, keys), fields.get("policy", "")
        if scope.service != "s3":
            raise Refused("AccessDenied", "Only S3 accepts signed forms.")
        signer = SigV4Auth(keys, scope.service, scope.region)
        _equal(signer.signature(policy, _timed(scope.stamp)), claim.signature)
        _show_service(environ, claim)
        tokens.append(fields.get("x-amz-security-token", ""))
        return forms.policy(policy, fields, bucket, now)

    forms.read(body.chunks(), environ["CONTENT_TYPE"], admit)
    body.put_back()
    return tokens[0]


def _scope(claim: Claim, keys: ReadOnlyCredentials) -> Scope:
    """Return the scope of a claim; `Refused` if it is invalid, or of another key."""
    found = _CREDENTIAL.fullmatch(claim.credential)
    stamp = _STAMP.fullmatch(claim.stamp)
    if found is None or stamp is None:
        raise Refused("AccessDenied", UNSIGNED)
    key, day, region, service = found.groups()
    if not hmac.compare_digest(key.encode(), str(keys.access_key).encode()):
        code = "InvalidAccessKeyId" if service == "s3" else "InvalidClientTokenId"
        raise Refused(code, "The access key is not that of the local cloud.")
    try:
        then = datetime(*map(int, stamp.groups()), tzinfo=timezone.utc)  # type: ignore[arg-type,misc]
    except ValueError:
        raise Refused("AccessDenied", f"Not a time: {claim.stamp}") from None
    if claim.stamp[:8] != day:
        raise Refused("SignatureDoesNotMatch", "The scope is of another day.")
    return Scope(claim.stamp, int(then.timestamp()), region, service)


class _AsNamed(SigV4Auth):
    """Signs the headers that the request names as signed, not botocore's choice."""

    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        named: HTTPHeaders = request.context["named"]
        return named


class _Header(_AsNamed):
    pass


class _S3Header(_AsNamed, S3SigV4Auth):
    pass


class _Query(_AsNamed, SigV4QueryAuth):
    pass


class _S3Query(_AsNamed, S3SigV4QueryAuth):
    pass


def _compare(
    environ: WSGIEnvironment,
    query: list[tuple[str, str]],
    claim: Claim,
    scope: Scope,
    keys: ReadOnlyCredentials,
) -> None:
    """Raise `Refused` unless the signature is that of the request, body included."""
    declared = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
    if not declared and claim.in_query and scope.service == "s3":
        declared = UNSIGNED_PAYLOAD
    payload = declared or _take_body(environ, MOST_UNHASHED)
    named = _named(environ, claim.headers)
    kinds: dict[tuple[bool, bool], type[SigV4Auth]] = {
        (False, False): _Header,
        (False, True): _S3Header,
        (True, False): _Query,
        (True, True): _S3Query,
    }
    signer = kinds[claim.in_query, scope.service == "s3"](
        keys, scope.service, scope.region
    )
    # The path and the query as moto reads them: no other spelling can be signed.
    path = quote(environ["PATH_INFO"].encode("latin-1"), safe="/~")
    request = AWSRequest(
        method=environ["REQUEST_METHOD"],
        url=f"http://{environ['HTTP_HOST']}{path}",
        params=query,  # type: ignore[arg-type]  # pairs, which it accepts as well
        headers={"X-Amz-Content-SHA256": payload},
    )
    request.context |= {"timestamp": scope.stamp, "named": named}
    text = signer.string_to_sign(request, signer.canonical_request(request))
    _equal(signer.signature(text, request), claim.signature)
    if _HASH.fullmatch(declared) and declared != _take_body(environ, MOST_BYTES):
        message = "The body is not what its x-amz-content-sha256 says."
        raise Refused("XAmzContentSHA256Mismatch", message)


def _named(environ: WSGIEnvironment, names: tuple[str, ...]) -> HTTPHeaders:
    """Return the signed headers; `Refused` if a required one is not signed.

    An unsigned one could change the meaning of the request (x-amz-copy-source).
    """
    headers = [(name.lower(), _text(value)) for name, value in environ[HEADERS]]
    must = {name for name, _ in headers if name.startswith("x-amz-")} | {"host"}
    if not must <= set(names):
        missing = ", ".join(sorted(must - set(names)))
        raise Refused("AccessDenied", f"Headers must be signed: {missing}")
    named = HTTPHeaders()
    for name, value in headers:
        if name in names:
            named[name] = value
    return named


def _text(value: str) -> str:
    """Return a header as its sender wrote it, as HTTP's characters are bytes."""
    return value.encode("latin-1").decode(errors="replace")


def _equal(expected: str, claimed: str) -> None:
    if not hmac.compare_digest(expected.encode(), claimed.encode()):
        message = "The signature was not made with the key of this cloud."
        raise Refused("SignatureDoesNotMatch", message)


def _timed(stamp: str) -> AWSRequest:
    request = AWSRequest()
    request.context["timestamp"] = stamp
    return request


def _show_service(environ: WSGIEnvironment, claim: Claim) -> None:
    """Show moto the signed service, which it would guess from path and body."""
    environ["HTTP_AUTHORIZATION"] = (
        f"AWS4-HMAC-SHA256 Credential={claim.credential}, "
        f"SignedHeaders=host, Signature={claim.signature}"
    )


class _Body:
    """The body of a request, read once; kept in memory up to IN_MEMORY bytes."""

    def __init__(self, environ: WSGIEnvironment, most: int) -> None:
        self._environ, self._most = environ, most
        self._kept: Any = None
        self._size = 0

    def chunks(self) -> Iterator[bytes]:
        """Yield the body in pieces; `Refused` if it is longer than the limit."""
        # The body of an upload in chunks has an end mark, others have a length.
        ends = bool(self._environ.get("wsgi.input_terminated"))
        length = self._environ.get("CONTENT_LENGTH") or "0"
        if not re.fullmatch("[0-9]{1,18}", length):
            raise Refused("AccessDenied", "The length of the body is not a number.")
        left = self._most + 1 if ends else int(length)
        if left > self._most and not ends:
            raise Refused("EntityTooLarge", f"At most {self._most} bytes.")
        source = self._environ["wsgi.input"]
        while left and (data := source.read(min(left, CHUNK))):
            left -= len(data)
            self._size += len(data)
            if self._size > self._most:
                raise Refused("EntityTooLarge", f"At most {self._most} bytes.")
            self._keep(data, last=not left)
            yield data

    def _keep(self, data: bytes, *, last: bool) -> None:
        if self._kept is None and last:
            self._kept = io.BytesIO(data)  # without a copy: most bodies are one piece
            return
        if self._kept is None:
            self._kept = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._kept.write(data)

    def put_back(self) -> None:
        """Let the next layer read the body from its beginning."""
        self._kept = self._kept or io.BytesIO()
        self._kept.seek(0)
        self._environ["wsgi.input"] = self._kept
        self._environ["CONTENT_LENGTH"] = str(self._size)


def _take_body(environ: WSGIEnvironment, most: int) -> str:
    """Read the body and put it back; return its SHA-256 in hex."""
    body, digest = _Body(environ, most), hashlib.sha256()
    for data in body.chunks():
        digest.update(data)
    body.put_back()
    return digest.hexdigest()
