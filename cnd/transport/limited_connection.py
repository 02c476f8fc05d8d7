"""A connection to a host that limits what SSH reads to what SSH allows to be sent.

One rule: it only limits.  paramiko itself keeps a greeting of any length, and a packet
of any length that is announced, and copies all of it with each piece that arrives.
"""

from __future__ import annotations

import errno
import re
import socket
import time
from typing import Any

# A server may send other lines before: RFC 4253, 4.2.
GREETING = re.compile(rb"(?:\A|\n)SSH-[^\n]{1,255}\n")
MOST_GREETING = 8192  # bytes, with what arrives together with it
# Bytes; as in OpenSSH.  35,000 must be taken: RFC 4253, 6.1.
MOST_PACKET = 256 << 10


class Link:
    """A socket, or a channel used as one, as far as paramiko uses it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._begun = b""  # received, and not read yet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def greet(self, patience: float) -> None:
        """Wait until the host has sent the greeting of SSH.

        Raises:
            OSError: it has not, within `patience` seconds, or sent something else.
            EOFError: it has closed the connection.
        """
        deadline = time.monotonic() + patience
        while not GREETING.search(self._begun):
            room, left = MOST_GREETING - len(self._begun), deadline - time.monotonic()
            if not room:
                raise ConnectionError("the program that answers does not speak SSH")
            if left <= 0:
                raise TimeoutError("it sent no SSH greeting in time")
            self._connection.settimeout(left)
            chunk = self._connection.recv(room)
            if not chunk:
                raise EOFError("the connection was closed")
            self._begun += chunk

    def recv(self, size: int) -> bytes:
        """Return what was received, `size` bytes at most, as a socket does."""
        if size > MOST_PACKET:
            # With an errno: an error without one ends paramiko's thread.
            raise OSError(errno.EMSGSIZE, f"it announces a packet of {size} bytes")
        if self._begun:
            came, self._begun = self._begun[:size], self._begun[size:]
            return came
        return self._connection.recv(size)
