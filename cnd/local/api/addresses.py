"""Addresses and the SSH port of the hosts of one cloud.

One rule: an address that is given to a host is free, and no other local cloud on this
machine gives it to a host.  On Linux all of 127.0.0.0/8 is local: each cloud claims a
block 127.X.0.0/16, and each host has an address with one common SSH port.  Elsewhere
(macOS) only 127.0.0.1 is local: each host has a port of its own.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterable
from itertools import count

from cnd.errors import CloudError

BLOCKS = range(64, 251)  # second octet; below 64: 127.0.0.53, 127.0.1.1 and others
CLAIM_PORT = 61022  # any port would do: a cloud claims a block by binding this one
SSH_PORTS = (22, 2222, 22022, 22122, 22222, 22322)


class Addresses:
    """Assigns (address, SSH port) pairs; claims the block until it is deleted."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._claim: socket.socket | None = None
        self.block: int | None = None  # None: 127.0.0.1 only
        self.port: int | None = None  # None: a port per host
        for block in random.sample(BLOCKS, len(BLOCKS)):
            try:
                self._claim = _bound(f"127.{block}.255.254", CLAIM_PORT, share=False)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                return
            self.block = block
            self.port = _free_port(f"127.{block}.0.1", SSH_PORTS)
            return
        raise CloudError("all loopback address blocks are taken by local clouds")

    @property
    def pattern(self) -> str:
        return "127.0.0.1" if self.block is None else f"127.{self.block}.*.*"

    def next(self) -> tuple[str, int]:
        if self.block is None or self.port is None:
            return "127.0.0.1", _free_port("127.0.0.1", (0,))
        high, low = divmod(next(self._numbers), 254)
        return f"127.{self.block}.{high}.{low + 1}", self.port


def inside(address: str) -> str:
    """Return the private address of a host, where it differs from the public one.

    Nothing answers there, as no private address of AWS does outside of its network.
    """
    first, block, high, low = address.split(".")
    return f"{first}.{block}.{(int(high) + 128) % 256}.{low}"


def _free_port(address: str, candidates: Iterable[int]) -> int:
    for port in candidates:
        try:
            with _bound(address, port) as probe:
                return int(probe.getsockname()[1])
        except OSError:
            continue  # in use, or a port that only root may have
    raise CloudError(f"no free SSH port at {address}")


def _bound(address: str, port: int, *, share: bool = True) -> socket.socket:
    """Bind, as an SSH server does; without `share` no other socket can do so."""
    probe = socket.socket()
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(share))
        probe.bind((address, port))
    except OSError:
        probe.close()
        raise
    return probe
