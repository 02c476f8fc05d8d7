"""HTTP requests of the programs on an instance: metadata service, S3.

It runs on any Python from 3.6 on, with the standard library only.  It needs no
credentials, as URLs are pre-signed and forms are signed; both are secrets.

One rule: each request has a time limit, and each failure is an OSError or a ValueError.
An error message of this module never contains a URL.
"""

import contextlib
import json
import os
import signal
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple


class Limits(NamedTuple):
    """The most that one request may take."""

    total: float  # seconds, even if its bytes arrive slowly
    silence: float = 10.0  # seconds without a byte


GET = Limits(20.0)
PUT_ONCE = Limits(60.0)
PUT_PATIENCE = 300.0  # seconds to write one object, with all attempts
LONGEST_PAUSE = 30.0  # seconds between two attempts, growing
TRY_LATER = (408, 429)  # HTTP statuses after which to retry, as after all from 500 on
MOST_JSON = 65536  # bytes of a JSON object
METADATA = "http://169.254.169.254"
FAILURES = (OSError, ValueError)  # of a request


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer; urllib limits each wait only."""

    def too_late(number: int, frame: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def fetch(
    url: str,
    data: Optional[bytes] = None,
    headers: Optional[Dict[str, str]] = None,
    method: Optional[str] = None,
    limits: Limits = GET,
    most: Optional[int] = None,
) -> Tuple[bytes, str]:
    """Return the body and the ETag of an answer; raises one of FAILURES.

    Args:
        method: of HTTP; None: POST with data, GET without.
        most: bytes of the body to read; None: all.
    """
    import urllib.error
    import urllib.request  # here: it takes memory, and most watchdogs never use it
    from http.client import HTTPException

    request = urllib.request.Request(url, data, headers or {}, method=method)
    timeout = limits.silence
    try:
        with time_limit(limits.total), urllib.request.urlopen(
            request, timeout=timeout
        ) as reply:
            return reply.read(most), reply.headers.get("ETag", "")
    except HTTPException as error:
        raise urllib.error.URLError(error) from error


def metadata(names: List[str], limits: Limits = GET) -> List[str]:
    """Return values of this instance from EC2's metadata service (version 2)."""
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA
    base = base.rstrip("/") + "/latest/"
    life = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = fetch(base + "api/token", b"", life, "PUT", limits)[0].decode()
    headers = {"X-aws-ec2-metadata-token": token}
    urls = [base + "meta-data/" + name for name in names]
    answers = [fetch(url, headers=headers, limits=limits) for url in urls]
    return [body.decode() for body, _ in answers]


def spot_notice() -> str:
    """Return the time (ISO 8601) at which EC2 takes this spot instance back, or "".

    Source:
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    """
    try:
        (action,) = metadata(["spot/instance-action"])
    except FAILURES:
        return ""  # status 404 while there is no notice
    return str(json_object(action.encode()).get("time", ""))


def json_object(text: bytes) -> Dict[str, Any]:
    """Return the JSON object in a text, or an empty one if there is none."""
    try:
        value = json.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def get(url: str, patience: float = GET.total) -> Dict[str, Any]:
    """Return the JSON object at a URL, or an empty one if there is none."""
    try:
        return json_object(fetch(url, limits=Limits(patience), most=MOST_JSON)[0])
    except FAILURES:
        return {}


def post(form: Dict[str, Any], data: bytes, key: str, limits: Limits) -> None:
    """Write an object by a signed form (S3's POST); raises one of FAILURES."""
    body, headers = form_body(form, data, key)
    fetch(form["url"], body, headers, "POST", limits)


def put(form: Dict[str, Any], data: bytes, patience: float = PUT_PATIENCE) -> str:
    """Write an object by a signed form; return an error message, or "".

    Repeats attempts for `patience` seconds, unless S3 refuses the object.
    """
    deadline, pause = time.monotonic() + patience, 1.0
    while True:
        why, final = _put_once(form, data)
        if not why or final or time.monotonic() + pause > deadline:
            return why
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _put_once(form: Dict[str, Any], data: bytes) -> Tuple[str, bool]:
    """Return an error message, or "", and whether a further attempt is useless."""
    import urllib.error

    try:
        post(form, data, "", PUT_ONCE)
        return "", True
    except urllib.error.HTTPError as error:
        refused = error.code < 500 and error.code not in TRY_LATER
        return f"HTTP status {error.code}", refused
    except (OSError, ValueError, LookupError, TypeError) as error:
        # The error's name only, as its text may contain the URL.
        return type(getattr(error, "reason", error)).__name__, False


def form_body(
    form: Dict[str, Any], data: bytes, key: str = ""
) -> Tuple[bytes, Dict[str, str]]:
    """Return the body and headers that write an object by a signed form (S3's POST).

    The signature allows one name, or names with one prefix, and limits the size.

    https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html

    Args:
        form: the URL and the signed fields.
        key: the object's name, if it is not one of the fields.
    """
    boundary = os.urandom(16).hex()
    fields = dict(form["fields"], key=key) if key else form["fields"]
    lines = []  # type: List[str]
    for name, value in fields.items():
        lines += ["--" + boundary, _disposition(name), "", value]
    lines += ["--" + boundary, _disposition("file") + '; filename="file"', "", ""]
    end = "\r\n--" + boundary + "--\r\n"
    body = "\r\n".join(lines).encode() + data + end.encode()
    return body, {"Content-Type": "multipart/form-data; boundary=" + boundary}


def _disposition(name: str) -> str:
    return 'Content-Disposition: form-data; name="' + name + '"'
