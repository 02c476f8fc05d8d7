"""Every request of CND's clients, recorded, and compared with botocore's model."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from botocore.validate import ParamValidator

from cnd.cloud.connection import FLEET_TIMEOUT, Cloud

SERVICES = ("autoscaling", "ec2", "s3", "sqs", "ssm")


@dataclass(frozen=True)
class Request:
    """One request: the call, its parameters, and their shape in the model."""

    service: str
    call: str
    parameters: dict[str, Any]
    shape: Any

    @property
    def name(self) -> str:
        return f"{self.service}:{self.call}"


@dataclass
class Recorder:
    """The requests that the clients of a cloud send while it is in a `with`."""

    cloud: Cloud
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Recorder:
        for client in self._clients():
            client.meta.events.register("provide-client-params.*", self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients():
            client.meta.events.unregister("provide-client-params.*", self._keep)

    def _clients(self) -> list[Any]:
        clients = self.cloud.clients
        return [
            *map(clients.get, SERVICES),
            clients.get("ec2", attempts=1),
            clients.get("ec2", attempts=1, read_timeout=FLEET_TIMEOUT),
        ]

    def _keep(self, params: dict[str, Any], model: Any, **_: object) -> None:
        service = model.service_model.service_name
        found = Request(service, model.name, params, model.input_shape)
        self.requests.append(found)

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the parameters of each request of a call, as "ec2:RunInstances".

        Copies, which a test may take apart: other tests read the same requests.
        """
        return [
            deepcopy(each.parameters) for each in self.requests if each.name == name
        ]

    def one(self, name: str) -> dict[str, Any]:
        (found,) = self.of(name)
        return found


def objections(request: Request) -> list[str]:
    """Return what the model does not allow: names, types, lengths, listed values."""
    report = ParamValidator().validate(request.parameters, request.shape)
    found = [report.generate_report()] if report.has_errors() else []
    for path, shape, value in leaves(request.call, request.shape, request.parameters):
        listed = getattr(shape, "enum", None)
        if listed and value not in listed:
            found.append(f"{path}: {value!r} is none of {listed}")
    return found


def leaves(path: str, shape: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, shape, value) of every value that is no structure, list or map."""
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from leaves(f"{path}.{name}", shape.members[name], inner)
    elif shape.type_name == "list":
        for inner in value:
            yield from leaves(f"{path}[]", shape.member, inner)
    elif shape.type_name == "map":
        for name, inner in value.items():
            yield from leaves(f"{path}.{name}", shape.value, inner)
    else:
        yield path, shape, value
