"""The failures that a user can understand and act on.

One rule: the class of an error is the exit status of the program.  Expected
endings of a run (found, timeout, exhausted ...) are values, not errors; see
`cnd.run.job`.  Only `cnd.cli.task` prints an error.
"""

from __future__ import annotations

from collections.abc import Iterable


class CndError(Exception):
    """A failure with a sentence for the user and, if there is one, a way out."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CndError, ValueError):
    """The request itself is impossible: nothing was bought."""

    exit_status = 2


class CloudError(CndError):
    """The cloud refused, or could not be reached."""

    exit_status = 3


class CapacityError(CloudError):
    """The cloud has no capacity, or the account's quota is used up."""


class HostError(CndError):
    """One host failed; `host` says which (an instance id or an address)."""

    exit_status = 4

    def __init__(self, host: str, message: str) -> None:
        super().__init__(f"{host}: {message}")
        self.host = host


class HostLost(HostError):
    """The connection to a host was lost, or it does not answer."""


class ForeignHost(HostError):
    """A host shows another host key than the one that its run gave it."""


class LeakError(CndError):
    """Instances may still be running, and be billed; `ids` names them."""

    exit_status = 5

    def __init__(
        self, ids: Iterable[str], message: str, *, hint: str | None = None
    ) -> None:
        self.ids = tuple(sorted(ids))
        super().__init__(f"{message}: {' '.join(self.ids) or 'unknown'}", hint=hint)
