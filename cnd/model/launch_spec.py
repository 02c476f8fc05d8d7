"""What EC2 is asked for when an instance is launched, in whatever way.

One rule: pure, and the only place that names the parameters of a launch: RunInstances,
its dry run and launch templates ask for the same.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnd.model.catalog import is_burstable

TAGGED = ("instance", "volume")  # what a launch creates and tags


@dataclass(frozen=True)
class LaunchSpec:
    """Everything that a launch needs except count, run and token."""

    image: str
    instance_type: str
    key_name: str  # "": none
    group: str  # "": the default one of the network
    user_data: str
    lifetime: float  # seconds, as armed by the user data
    subnet: str = ""  # empty: AWS chooses a default one
    public: bool = False  # whether a public address is asked for, whatever the subnet's
    # Devices of the image whose volumes would outlive the instance.
    volumes: tuple[str, ...] = ()

    def run_instances(
        self, tags: Mapping[str, str], *, least: int, most: int, token: str = ""
    ) -> dict[str, Any]:
        """Return the parameters of RunInstances, for a launch and for its dry run.

        Args:
            token: of the client; empty: botocore chooses one.
        """
        return {
            **_settings(self, tags),
            **({"UserData": self.user_data} if self.user_data else {}),
            **({"ClientToken": token} if token else {}),
            "MinCount": least,
            "MaxCount": most,
        }

    def template(self, tags: Mapping[str, str]) -> dict[str, Any]:
        """Return the data of a launch template."""
        settings = _settings(self, tags)
        if self.user_data:
            # botocore encodes it for RunInstances, but not here.
            encoded = base64.b64encode(self.user_data.encode())
            settings["UserData"] = encoded.decode()
        return settings


def _settings(spec: LaunchSpec, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters that RunInstances and templates have in common."""
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    settings: dict[str, Any] = {
        "ImageId": spec.image,
        "InstanceType": spec.instance_type,
        "NetworkInterfaces": [_interface(spec)],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
        "TagSpecifications": [
            {"ResourceType": each, "Tags": listed} for each in TAGGED
        ],
    }
    if spec.key_name:
        settings["KeyName"] = spec.key_name
    if is_burstable(spec.instance_type):
        # The account's default may be "standard": a tenth of the rate, credits aside.
        settings["CreditSpecification"] = {"CpuCredits": "unlimited"}
    if spec.volumes:
        settings["BlockDeviceMappings"] = [
            {"DeviceName": device, "Ebs": {"DeleteOnTermination": True}}
            for device in spec.volumes
        ]
    return settings


def _interface(spec: LaunchSpec) -> dict[str, Any]:
    """Return the network interface, which holds group and subnet.

    AWS refuses both beside an interface, and without one a subnet that assigns no
    public addresses gives none.
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceNetworkInterfaceSpecification.html
    """
    interface: dict[str, Any] = {"DeviceIndex": 0, "DeleteOnTermination": True}
    if spec.public:
        interface["AssociatePublicIpAddress"] = True
    if spec.group:
        interface["Groups"] = [spec.group]
    if spec.subnet:
        interface["SubnetId"] = spec.subnet
    return interface
