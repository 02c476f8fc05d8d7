"""What moto leaves out where instances are launched by a launch template.

One rule: whichever way an instance was launched, it ends as its launch said, and a
repeated request launches nothing more.  Imported by the server only, with moto.
"""

from __future__ import annotations

import threading
from typing import Any

from moto.ec2.models.fleets import FleetsBackend
from moto.ec2.responses.fleets import Fleets

BEHAVIOR = "InstanceInitiatedShutdownBehavior"


def install() -> None:
    """Put this in moto's place."""
    _end_as_launched()
    _heed_client_tokens()


def behavior(backend: Any, template: dict[str, Any]) -> str | None:
    """Return what a template says of an instance that powers itself off."""
    found = backend._get_template_from_args(template).data.get(BEHAVIOR)
    return str(found) if found else None


def _end_as_launched() -> None:
    """Let the instances of an EC2 Fleet have their template's shutdown behaviour."""
    plain = FleetsBackend.create_fleet

    def create_fleet(backend: Any, *a: Any, **k: Any) -> Any:
        fleet = plain(backend, *a, **k)
        template = k["launch_template_configs"][0]["LaunchTemplateSpecification"]
        if end := behavior(backend, template):
            instances = [each["instance"] for each in fleet.on_demand_instances]
            instances += [request.instance for request in fleet.spot_requests]
            for instance in instances:
                instance.instance_initiated_shutdown_behavior = end
        return fleet

    FleetsBackend.create_fleet = create_fleet  # type: ignore[method-assign,assignment]


def _heed_client_tokens() -> None:
    """Answer a CreateFleet that was asked before as it was answered before."""
    plain: Any = Fleets.create_fleet
    answers: dict[tuple[str, ...], Any] = {}
    lock = threading.Lock()

    def respond(response: Any) -> Any:
        key = (
            response.current_account,
            response.region,
            response._get_param("ClientToken"),
        )
        with lock:
            if key not in answers:
                answers[key] = plain(response)
            return answers[key]

    Fleets.create_fleet = respond  # type: ignore[method-assign,assignment]
