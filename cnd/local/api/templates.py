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

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.fleets import FleetsBackend
from moto.ec2.responses.fleets import Fleets
from moto.ec2.utils import random_fleet_id

from cnd.local.account_kinds import AccountKind
from cnd.local.api import accounts

BEHAVIOR = "InstanceInitiatedShutdownBehavior"
FLEET_TAG = "aws:ec2:fleet-id"


def install(account: AccountKind) -> None:
    """Replace moto's functions."""
    _complete_fleets(account)
    _apply_client_tokens()


def data_of(backend: Any, template: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a launch template that a launch names."""
    found: dict[str, Any] = backend._get_template_from_args(template).data
    return found


def public_wanted(interfaces: Any) -> bool | None:
    """Return whether a launch asks for a public address; None: it leaves it open.

    Args:
        interfaces: NetworkInterfaces of the launch or of its template.
    """
    first: dict[str, Any] = next(iter(interfaces or ()), {})
    asked = first.get("AssociatePublicIpAddress")
    return None if asked is None else str(asked).lower() == "true"


def _complete_fleets(account: AccountKind) -> None:
    """Give the instances of an EC2 Fleet what moto does not take from the template."""
    plain = FleetsBackend.create_fleet

    def create_fleet(backend: Any, *a: Any, **k: Any) -> Any:
        template = k["launch_template_configs"][0]["LaunchTemplateSpecification"]
        data = data_of(backend, template)
        accounts.check_tokens(account, data.get("MetadataOptions"))
        fleet = plain(backend, *a, **k)
        instances = [each["instance"] for each in fleet.on_demand_instances]
        instances += [request.instance for request in fleet.spot_requests]
        for instance in instances:
            instance.add_tags({FLEET_TAG: fleet.id})
            instance.public_wanted = public_wanted(data.get("NetworkInterfaces"))
            if end := data.get(BEHAVIOR):
                instance.instance_initiated_shutdown_behavior = end
        return fleet

    FleetsBackend.create_fleet = create_fleet  # type: ignore[method-assign,assignment]


def _apply_client_tokens() -> None:
    """Answer a repeated CreateFleet with the answer to the original one.

    What the account refuses is an error in the answer, not of the call.
    """
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
                answers[key] = _with_errors(plain, response)
            return answers[key]

    Fleets.create_fleet = respond  # type: ignore[method-assign,assignment]


def _with_errors(plain: Any, response: Any) -> Any:
    try:
        return plain(response)
    except EC2ClientError as error:
        if error.code not in accounts.REFUSALS:
            raise
        reason = {"ErrorCode": error.code, "ErrorMessage": error.message}
        return ActionResult(
            {"FleetId": random_fleet_id(), "Errors": [reason], "Instances": []}
        )


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
