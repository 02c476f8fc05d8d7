"""The instance metadata service of a virtual machine, one request at a time.

One rule: it runs alone, `python3 -I -S vmdata.py FACTS.json`, since qemu starts it for
each connection of its guest to 169.254.169.254, with the connection as standard input
and output.  It imports little, and of the standard library only: a boot makes some
sixty requests.

Version 2 of the service only: a request without a token is refused.  Source:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any, BinaryIO

TOKEN_SECONDS = "21600"
LONGEST_LINE = 8192  # bytes
MOST_LINES = 100


def new_token() -> str:
    """Return a token, valid for one host only, and the same for all its requests."""
    return os.urandom(24).hex()


def answer(
    method: str, path: str, headers: dict[str, str], facts: dict[str, Any], token: str
) -> bytes:
    """Return the answer to a request, with its HTTP head.

    Args:
        path: "/latest/meta-data/instance-id"; all versions of the service are the same.
        headers: by their names in lower case.
        facts: the tree below the version; "user-data" is base64.
        token: of this instance.
    """
    _, version, *names = (
        path.partition("?")[0].split("/") if path[:1] == "/" else ["", ""]
    )
    if names == ["api", "token"]:
        if "x-forwarded-for" in headers:  # no requests through a proxy, as on EC2
            return refusal(403)
        return _reply("200 OK", token.encode()) if method == "PUT" else refusal(405)
    if headers.get("x-aws-ec2-metadata-token") != token:
        return refusal(401)
    found: Any = facts if version else {"latest": ""}
    for name in filter(None, names):
        # A key is listed as "0=its-name", and requested as "0".
        known = {key.partition("=")[0]: key for key in found} if found else {}
        if not isinstance(found, dict) or name not in known:
            return refusal(404)
        found = found[known[name]]
    if isinstance(found, dict):
        return _reply("200 OK", _listing(found).encode())
    if names[:1] == ["user-data"]:
        return _reply("200 OK", _decoded(found))
    return _reply("200 OK", found.encode())


def _decoded(text: str) -> bytes:
    """Return the original user data; EC2 refuses invalid base64 at the launch."""
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""


def _listing(tree: dict[str, Any]) -> str:
    return "\n".join(
        name + "/" if isinstance(value, dict) and "=" not in name else name
        for name, value in tree.items()
    )


def refusal(status: int) -> bytes:
    words = {
        401: "Unauthorized",
        403: "Forbidden",
        404: "Not Found",
        405: "Method Not Allowed",
    }
    return _reply(f"{status} {words[status]}", b"")


def _reply(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: text/plain\r\nConnection: close\r\n"
        f"X-Aws-Ec2-Metadata-Token-Ttl-Seconds: {TOKEN_SECONDS}\r\n\r\n"
    )
    return head.encode() + body


def _request(stream: BinaryIO) -> tuple[str, str, dict[str, str]]:
    """Read the head of a request: method, path, headers."""
    first = stream.readline(LONGEST_LINE).decode("latin-1")
    method, path, *_ = [*first.split(), "", ""]
    headers = {}
    for _ in range(MOST_LINES):
        line = stream.readline(LONGEST_LINE).decode("latin-1").strip()
        if not line:
            break
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return method, path, headers


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        record = json.load(file)
    asked = _request(sys.stdin.buffer)
    sys.stdout.buffer.write(answer(*asked, record["facts"], record["token"]))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
