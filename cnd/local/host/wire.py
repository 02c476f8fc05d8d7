"""The protocol between the cloud's server and the fork server.

One rule: one JSON object per line, each with a `kind`; orders go to the fork server's
standard input, reports come from its standard output.  A report is written by one
`write` of at most PIPE_BUF bytes, so that the hosts may share the pipe.

Orders:   boot (a HostSpec) · kill (ids; keep: leave their file trees)
          fault (id, what)
Reports:  up (id, host_key) · poweroff (id) · down (id) · lost (id, status)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class HostSpec:
    """Everything that one host needs to boot."""

    id: str  # of its instance
    address: str
    port: int  # of SSH
    user: str  # the login user of the image
    public_key: str  # of the user, in OpenSSH format; empty: no login
    user_data: str  # base64, as EC2 stores it; may be empty
    cpus: tuple[int, ...]  # cores that it may use; empty: all
    delay: float  # seconds until the boot begins
    root: str  # its file tree
    programs: str  # the folder that is its /bin
    fault: str = ""  # one of faults.BOOT_KINDS, applied as it boots
    fault_seconds: float = 0.0
    launch_index: int = 0  # its place in its launch
    metadata: str = ""  # URL of its metadata service, once that is up
    image: str = ""  # folder of the image of a virtual machine; empty: a process
    accelerator: str = ""  # of a virtual machine: "kvm", or "tcg" for none
    rate: float | None = None  # nonces/s of its worker, at most
    cloud_port: int = 0  # of the cloud, on 127.0.0.1
    # The variables by which its worker sees this machine's processor as a GPU.
    gpu: dict[str, str] = field(default_factory=dict)

    @property
    def hostname(self) -> str:
        """The default name on AWS, made from the private address."""
        return "ip-" + self.address.replace(".", "-")


def boot(spec: HostSpec) -> Message:
    return {"kind": "boot", **asdict(spec)}


def spec_of(message: Message) -> HostSpec:
    fields = {key: value for key, value in message.items() if key != "kind"}
    return HostSpec(**{**fields, "cpus": tuple(fields["cpus"])})


def send(descriptor: int, message: Message) -> None:
    """Write one message; raises BrokenPipeError when the reader is gone."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


class MessageReader:
    """Assembles messages from pieces as they arrive."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)
