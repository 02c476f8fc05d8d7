"""The cloud that a command uses; the first line of the command names it.

One rule: a command says which cloud it uses before it does anything there.
"""

from __future__ import annotations

from cnd.cli.options import CloudOptions
from cnd.cli.output import say
from cnd.cloud import connection
from cnd.cloud.connection import Cloud


def connected(options: CloudOptions) -> Cloud | None:
    """Return the cloud that the options mean; None: it is the local cloud, and down."""
    cloud = connection.connect(options.cloud, options.region)
    say(cloud.title if cloud else connection.DOWN)
    return cloud


def required(cloud: str, region: str, *, launch: bool = False) -> Cloud:
    """Return the cloud; with `launch` a local cloud that is down is brought up.

    Raises:
        CloudError: there is none.
    """
    found = connection.required(connection.connect(cloud, region, launch=launch))
    say(found.title)
    return found
