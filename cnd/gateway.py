"""A jump host: one SSH connection, through which all hosts of a run are reached.

One rule: it is the user's own machine, so it is known and entered as their `ssh` does
it, by ~/.ssh (config, known_hosts, keys, agent) and by the key of the run; one whose
host key is not known is not talked to.
"""

from __future__ import annotations

import threading
from pathlib import Path

import fabric
import paramiko

from cnd.errors import UsageError

PATIENCE = 15.0  # seconds for banner and for authentication, each
CHANNEL_PATIENCE = 5.0  # seconds for the gateway to reach a host
LOST = (OSError, EOFError, paramiko.SSHException)


class Gateway:
    """The connection to a gateway, made when it is needed; for any thread."""

    def __init__(self, where: str, key: Path) -> None:
        """Make a gateway that is not yet connected to.

        Args:
            where: "user@host:port"; user and port may be left out.
            key: the private key of the run, tried after the user's own.
        """
        self.where, self._key = where, key
        self._lock = threading.Lock()
        self._connection: fabric.Connection | None = None

    def connection(self) -> fabric.Connection:
        """Return the open connection, anew if it dropped.

        Raises:
            OSError, EOFError, paramiko.SSHException: it does not answer, or refuses.
        """
        with self._lock:
            if self._connection is None or not self._connection.is_connected:
                self.close()
                self._connection = self._opened()
            return self._connection

    def check(self) -> None:
        """See that the gateway lets us in, and leave; `UsageError` if it does not."""
        try:
            self.connection()
        except LOST as error:
            hint = f"`ssh {self.where.partition(':')[0]}` must work without questions"
            message = f"--gateway {self.where}: {error or type(error).__name__}"
            raise UsageError(message, hint=hint) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, and with it all that lead through it."""
        if self._connection is not None:
            self._connection.client.close()

    def _opened(self) -> fabric.Connection:
        config = fabric.Config(lazy=True)
        config.load_ssh_config()
        connection = fabric.Connection(
            self.where,
            config=config,
            connect_timeout=int(CHANNEL_PATIENCE),
            connect_kwargs={
                "key_filename": str(self._key),
                "banner_timeout": PATIENCE,
                "auth_timeout": PATIENCE,
            },
        )
        connection.client.load_system_host_keys()
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        connection.open()
        # paramiko would wait for an hour.
        connection.transport.channel_timeout = CHANNEL_PATIENCE
        return connection
