"""How many files this process may have open: a connection to an instance is one, too.

One rule: the limit is raised before anything is bought; where it cannot be, the error
names the way out.
"""

from __future__ import annotations

import resource

from cnd.errors import UsageError

EACH = 4  # for an instance: two connections, of its class and of one handed over, each
# possibly made anew before the old one is closed
OTHERS = 256  # HTTP connections, the journal, libraries


def allow(instances: int) -> None:
    """Let this process have the files open that a fleet takes.

    Raises:
        UsageError: the system does not allow so many.
    """
    needed = OTHERS + EACH * instances
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        message = f"--n {instances}: takes {needed} open files, {hard} are allowed here"
        raise UsageError(message, hint=f"as root: `ulimit -Hn {needed}`{_fewer(hard)}")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError) as error:  # macOS has a limit behind the limit
        message = f"--n {instances}: takes {needed} open files: {error}"
        hint = f"`ulimit -n {needed}`{_fewer(soft)}"
        raise UsageError(message, hint=hint) from error


def _fewer(limit: int) -> str:
    """Return the other way out: how many instances will do, if any will."""
    most = (limit - OTHERS) // EACH
    return f"; or at most --n {most}" if most > 0 else ""
