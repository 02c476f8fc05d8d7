"""A connection to a host, on which SSH takes no more than SSH allows to be sent.

One rule: it only limits.  paramiko keeps a greeting until its end, and a packet of
whatever length it is said to have, and copies all of it with each piece that comes.
"""

from __future__ import annotations

import errno
import re
import socket
import time
from typing import Any

# A server may say other lines before: RFC 4253, 4.2.
GREETING = re.compile(rb"(?:\A|\n)SSH-[^\n]{1,255}\n")
MOST_GREETING = 8192  # bytes, with what follows it at once
# Bytes; as in OpenSSH.  35,000 must be taken: RFC 4253, 6.1.
MOST_PACKET = 256 << 10


class Link:
    """What paramiko uses of a socket, or of a channel that is used as one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._begun = b""  # what has come, and was not asked for yet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def greet(self, patience: float) -> None:
        """Wait until the host has said that it speaks SSH.

        Raises:
            OSError: it has not, within `patience` seconds, or says something else.
            EOFError: it has closed the connection.
        """
        deadline = time.monotonic() + patience
        while not GREETING.search(self._begun):
            room, left = MOST_GREETING - len(self._begun), deadline - time.monotonic()
            if not room:
                raise ConnectionError("what answers does not speak SSH")
            if left <= 0:
                raise TimeoutError("it has not said in time that it speaks SSH")
            self._connection.settimeout(left)
            chunk = self._connection.recv(room)
            if not chunk:
                raise EOFError("the connection was closed")
            self._begun += chunk

    def recv(self, size: int) -> bytes:
        """Return what has come, `size` bytes at most, as of a socket."""
        if size > MOST_PACKET:
            # With a number: paramiko's thread dies of an error that has none.
            raise OSError(errno.EMSGSIZE, f"it announces a packet of {size} bytes")
        if self._begun:
            came, self._begun = self._begun[:size], self._begun[size:]
            return came
        return self._connection.recv(size)
