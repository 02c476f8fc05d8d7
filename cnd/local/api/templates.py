"""The behaviour of launch templates and Auto Scaling that moto lacks.

One rule: however an instance was launched, it ends as its launch requires, and a
repeated request launches nothing more.  Imported by the server only, with moto.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from moto.ec2.models.fleets import FleetsBackend
from moto.ec2.responses.fleets import Fleets

BEHAVIOR = "InstanceInitiatedShutdownBehavior"
FLEET_TAG = "aws:ec2:fleet-id"


def install() -> None:
    """Replace moto's functions."""
    _complete_fleets()
    _apply_client_tokens()


def behavior(backend: Any, template: dict[str, Any]) -> str | None:
    """Return a template's behaviour for an instance that powers itself off."""
    found = backend._get_template_from_args(template).data.get(BEHAVIOR)
    return str(found) if found else None


def listed(backend: Any, template: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list in the data of a template; empty if it has none of that name."""
    return list(backend._get_template_from_args(template).data.get(name) or [])


def _complete_fleets() -> None:
    """Give the instances of an EC2 Fleet its tag and the shutdown behaviour."""
    plain = FleetsBackend.create_fleet

    def create_fleet(backend: Any, *a: Any, **k: Any) -> Any:
        fleet = plain(backend, *a, **k)
        template = k["launch_template_configs"][0]["LaunchTemplateSpecification"]
        instances = [each["instance"] for each in fleet.on_demand_instances]
        instances += [request.instance for request in fleet.spot_requests]
        end = behavior(backend, template)
        for instance in instances:
            instance.add_tags({FLEET_TAG: fleet.id})
            if end:
                instance.instance_initiated_shutdown_behavior = end
        return fleet

    FleetsBackend.create_fleet = create_fleet  # type: ignore[method-assign,assignment]


def _apply_client_tokens() -> None:
    """Answer a repeated CreateFleet with the answer to the original one."""
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


def notice(instance: Any) -> None:
    """Notify an Auto Scaling group that an instance of it has ended by itself."""
    group = getattr(instance, "autoscaling_group", None)
    if group is not None:
        replace = group.autoscaling_backend.notify_terminate_instances
        threading.Thread(target=replace, args=[[instance.id]], daemon=True).start()


def keep_schedules(modules: Mapping[str, Any] = sys.modules) -> None:
    """Execute the scheduled actions of Auto Scaling groups that are due.

    moto only stores them.  The first call that needs its module loads it, in the call's
    thread, so the module may be in `modules` and still be empty.
    """
    module = modules.get("moto.autoscaling.models")
    accounts = getattr(module, "autoscaling_backends", {})
    now = datetime.now(timezone.utc).replace(tzinfo=None)  # as botocore sends it
    for regions in list(accounts.values()):
        for backend in list(regions.values()):
            for action in list(backend.scheduled_actions.values()):
                group = backend.autoscaling_groups.get(action.auto_scaling_group_name)
                due = datetime.fromisoformat(str(action.start_time).rstrip("Z"))
                if group and due.replace(tzinfo=None) <= now:
                    del backend.scheduled_actions[action.scheduled_action_name]
                    group.min_size, group.max_size = action.min_size, action.max_size
                    group.set_desired_capacity(action.desired_capacity)
