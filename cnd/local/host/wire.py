"""What the server and the fork server of hosts say to each other.

One rule: one JSON object a line, each with a `kind`; orders go down the fork
server's standard input, reports come up through its standard output.  A report
is written by one `write` of at most PIPE_BUF bytes, so that the hosts may share
the pipe.

Orders:   boot (a HostSpec) · kill (ids; keep: leave their file trees)
          fault (id, what)
Reports:  up (id, host_key) · poweroff (id) · down (id) · lost (id, status)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class HostSpec:
    """All that one host needs to know to boot."""

    id: str  # of its instance
    address: str
    port: int  # of SSH
    user: str  # who may log in: the login user of the image
    public_key: str  # OpenSSH format; empty: nobody may
    user_data: str  # base64, as EC2 keeps it; may be empty
    cpus: tuple[int, ...]  # cores it may run on; empty: all
    delay: float  # seconds until the boot begins
    root: str  # its file tree
    programs: str  # folder of the programs that are its /bin
    fault: str = ""  # one of faults.BOOT_KINDS that befalls it
    fault_seconds: float = 0.0
    launch_index: int = 0  # its place in its launch
    metadata: str = ""  # URL of its metadata service, once that is up
    image: str = ""  # folder of the image of a virtual machine; empty: a process
    accelerator: str = ""  # of a virtual machine: "kvm", or "tcg" for none
    rate: float | None = None  # nonces/s of its worker at most
    cloud_port: int = 0  # where the cloud answers on 127.0.0.1

    @property
    def hostname(self) -> str:
        """The name AWS gives by default, from the private address."""
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


class Lines:
    """Cuts what arrives in pieces into whole messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)
