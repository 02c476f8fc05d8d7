"""The instance metadata service of one host, version 2 (IMDSv2).

One rule: it knows what the host was launched with, and answers as EC2 does: with a
token or not at all.  It cannot be at 169.254.169.254, which takes root; the standard
variable AWS_EC2_METADATA_SERVICE_ENDPOINT leads to it.
Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path

from cnd.local.wire import HostSpec

PATIENCE = 10.0  # seconds for a request to arrive
NOTICE = "run/cnd/spot-notice"  # in the host's tree: its interruption, once decided
TOKEN_HEADER = "x-aws-ec2-metadata-token"


class Metadata:
    """Serves the metadata of one host."""

    def __init__(self, spec: HostSpec) -> None:
        self._token = secrets.token_urlsafe(32)
        self._notice = Path(spec.root, NOTICE)
        self._values = {
            "ami-launch-index": str(spec.launch_index),
            "instance-id": spec.id,
            "local-ipv4": spec.address,
            "public-ipv4": spec.address,
        }

    async def listen(self, address: str) -> str:
        """Serve on a free port of `address`; return the URL."""
        self._server = await asyncio.start_server(self._serve, address, 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://{address}:{port}"

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request, and close."""
        with contextlib.suppress(
            OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError
        ):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            request, *lines = head.decode("latin-1").split("\r\n")
            method, path, _ = request.split(" ")
            pairs = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            status, body = self.answer(method, path, headers)
            text = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{text}Connection: close\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()

    def answer(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> tuple[str, str]:
        """Return the status and the body of an answer."""
        if (method, path) == ("PUT", "/latest/api/token"):
            return "200 OK", self._token
        if headers.get(TOKEN_HEADER) != self._token:
            return "401 Unauthorized", ""
        start = "/latest/meta-data/"
        if path == f"{start}spot/instance-action":
            with contextlib.suppress(FileNotFoundError):
                return "200 OK", self._notice.read_text()
        if path == start:
            return "200 OK", "\n".join(sorted(self._values))
        value = self._values.get(path[len(start) :]) if path.startswith(start) else None
        return ("404 Not Found", "") if value is None else ("200 OK", value)
