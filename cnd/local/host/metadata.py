"""The instance metadata service of one host, version 2 (IMDSv2).

One rule: it answers as the service of a virtual machine does (`vmdata`), and only to
requests with its secret path.  It cannot be at 169.254.169.254, which needs root; the
standard variable AWS_EC2_METADATA_SERVICE_ENDPOINT has its URL.  Only the host's own
processes have it in their environment, which no other user can read.  (The source
address proves nothing, as all requests on loopback come from 127.0.0.1.)
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from pathlib import Path
from typing import Any

from cnd.local.host import vmdata
from cnd.local.host.wire import HostSpec

SECRET_BYTES = 24
PATIENCE = 10.0  # seconds for a request to arrive
NOTICE = "run/cnd/spot-notice"  # in the host's tree: the time of its interruption


def facts(spec: HostSpec) -> dict[str, Any]:
    """Return the current data of a host's service: see `vmdata.answer`."""
    data: dict[str, Any] = {
        "ami-launch-index": str(spec.launch_index),
        "instance-id": spec.id,
        "local-hostname": spec.hostname,
        "local-ipv4": spec.address,
        "public-ipv4": spec.address,
    }
    with contextlib.suppress(FileNotFoundError):
        data["spot"] = {"instance-action": Path(spec.root, NOTICE).read_text()}
    return {"meta-data": data, "user-data": spec.user_data}


async def listen(spec: HostSpec) -> str:
    """Serve on a free port of the host's address from now on; return the URL."""
    path, token = "/" + secrets.token_urlsafe(SECRET_BYTES), vmdata.new_token()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close."""
        failures = (OSError, ValueError, asyncio.TimeoutError, EOFError)
        with contextlib.suppress(*failures, asyncio.LimitOverrunError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            request, *lines = head.decode("latin-1").split("\r\n")
            method, asked, _ = request.split(" ")
            shown, inside = asked[: len(path)], asked[len(path) :]
            pairs = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            if hmac.compare_digest(shown.encode(), path.encode()):
                answer = vmdata.answer(method, inside, headers, facts(spec), token)
            else:
                answer = vmdata.refusal(404)
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, spec.address, 0)
    port = server.sockets[0].getsockname()[1]
    return f"http://{spec.address}:{port}{path}"
