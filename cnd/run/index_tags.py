"""The tags that name the place of each instance in its fleet.

One rule: they are for users and for the AWS console only, and each takes one call: so
they delay no worker, and a large fleet has none.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError
from cnd.provision.retry import again
from cnd.run.recorder import TICK, Recorder

MOST = 64  # instances
LATEST = 60.0  # seconds after the launch


def tag(recorder: Recorder, cloud: Cloud, instances: Collection[ec2.Instance]) -> None:
    """Tag each instance with its index, once a worker searches; for a thread."""
    deadline = time.monotonic() + LATEST
    if not 0 < len(instances) <= MOST:
        return
    while not recorder.search.begun and time.monotonic() < deadline:
        if recorder.over.wait(TICK):
            return
    try:
        for instance in instances:
            if not recorder.over.is_set():
                tag_it = partial(ec2.tag_index, cloud.ec2, instance)
                again(tag_it, hopeless=recorder.over.is_set)
    except CloudError as error:
        recorder.trouble(error)
