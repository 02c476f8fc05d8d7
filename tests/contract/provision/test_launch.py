"""What is known of an interrupted launch."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cnd.errors import CndError, UsageError
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.provision.launch import Launcher
from cnd.provision.prepare import Provision
from cnd.transport.ssh_connection import Login
from tests.support.aws import SPEC
from tests.support.clerk import stubbed

LOGIN = Login("ubuntu", Path("key"), "ssh-ed25519 AAAA")


def broken_off(at_request: BaseException, at_event: CndError | None = None) -> Launcher:
    """Return a launcher after a launch in which these were raised."""

    def tell(event: Event) -> None:
        if at_event:
            raise at_event

    def leave(**_: Any) -> None:
        raise at_request

    with stubbed("ec2") as clerk:
        events = clerk.cloud.ec2_once.meta.events
        events.register("before-parameter-build.ec2.RunInstances", leave)
        launcher = Launcher(clerk.cloud, Plan(2, 2, 60.0), "r")
        provision = Provision((SPEC,), LOGIN, "queue", "bucket", Future())
        with pytest.raises(type(at_event or at_request)):
            launcher.launch(provision, 2, least=2, emit=tell, wait=lambda _: True)
    return launcher


def test_an_interrupted_launch_is_unsure() -> None:
    """Ctrl-C, twice, while the request is on its way: the fleet may come up yet."""
    assert broken_off(KeyboardInterrupt()).unsure


def test_a_launch_that_was_never_requested_is_not_unsure() -> None:
    assert not broken_off(KeyboardInterrupt(), UsageError("full", hint="")).unsure
