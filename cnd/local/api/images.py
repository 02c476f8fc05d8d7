"""The machine images that moto lacks: of Ubuntu and Debian, found through SSM.

One rule: every image id in an SSM parameter exists in every EC2 region.  Imported by
the server only, when moto is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import MissingParameterError
from moto.ec2.models.amis import Ami, AmiBackend
from moto.ssm.models import Parameter, ParameterDict

# AWS accounts of the publishers.
CANONICAL, DEBIAN, AMAZON = "099720109477", "136693071363", "898082745236"


@dataclass(frozen=True)
class Image:
    parameter: str  # SSM
    name: str
    owner: str
    architecture: str  # as EC2 names it
    root_device: str

    @property
    def id(self) -> str:
        """An id in the form of a real one, the same in every cloud."""
        return "ami-0" + hashlib.sha256(self.parameter.encode()).hexdigest()[:16]


def _images() -> list[Image]:
    found = []
    for name, ec2_name in (("amd64", "x86_64"), ("arm64", "arm64")):
        for release, volume, codename in (
            ("24.04", "ebs-gp3", "noble"),
            ("22.04", "ebs-gp2", "jammy"),
        ):
            found.append(
                Image(
                    f"/aws/service/canonical/ubuntu/server/{release}/stable/current/"
                    f"{name}/hvm/{volume}/ami-id",
                    f"ubuntu/images/hvm-ssd-gp3/ubuntu-{codename}-{release}-{name}-server",
                    CANONICAL,
                    ec2_name,
                    "/dev/sda1",
                )
            )
        found.append(
            Image(
                f"/aws/service/deeplearning/ami/{ec2_name}/"
                "base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id",
                "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04)",
                AMAZON,
                ec2_name,
                "/dev/sda1",
            )
        )
        for debian in ("12", "13"):
            found.append(
                Image(
                    f"/aws/service/debian/release/{debian}/latest/{name}",
                    f"debian-{debian}-{name}",
                    DEBIAN,
                    ec2_name,
                    "/dev/xvda",
                )
            )
    return found


IMAGES = _images()


def login_user(image_name: str | None) -> str:
    """Return the login user of instances of an image of that name."""
    name = image_name or ""
    if name.startswith("debian"):
        return "admin"
    return "ec2-user" if name.startswith(("al20", "amzn")) else "ubuntu"


def with_sizes(mappings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a launch says of volumes, with the size that the image gives them."""
    return [
        {
            **each,
            "Ebs": {**each["Ebs"], "VolumeSize": each["Ebs"].get("VolumeSize") or 8},
        }
        for each in mappings
    ]


def check_mapping(mapping: Mapping[str, Any]) -> None:
    """Refuse a mapping that names no volume; moto also wants what the image has."""
    if "Ebs" not in mapping and "NoDevice" not in mapping:
        raise MissingParameterError("ebs")


def install() -> None:
    """Add the images and their parameters to every region of moto."""
    load_amis = AmiBackend._load_amis
    describe_images = AmiBackend.describe_images
    make_parameters = ParameterDict.__init__

    def load_with_ours(self: AmiBackend) -> None:
        load_amis(self)
        self.amis |= {image.id: _ami(self, image) for image in IMAGES}

    def describe_quickly(self: AmiBackend, *args: Any, **named: Any) -> list[Ami]:
        """Find one image by its id; moto searches all 1300 for each instance."""
        filters = named.get("filters")
        if not args and len(named) == 1 and filters and filters.keys() == {"image-id"}:
            image = self.amis.get(str(filters["image-id"]))
            if image:
                return [image]
        return describe_images(self, *args, **named)

    def make_with_ours(self: ParameterDict, account_id: str, region_name: str) -> None:
        make_parameters(self, account_id, region_name)
        for image in IMAGES:
            self[image.parameter] = [_parameter(image, account_id)]

    AmiBackend._load_amis = load_with_ours  # type: ignore[method-assign]
    AmiBackend.describe_images = describe_quickly  # type: ignore[method-assign]
    ParameterDict.__init__ = make_with_ours  # type: ignore[method-assign]


def _ami(backend: AmiBackend, image: Image) -> Ami:
    return Ami(
        backend,
        image.id,
        name=image.name,
        description=image.name,
        owner_id=image.owner,
        owner_alias="amazon",
        public=True,
        virtualization_type="hvm",
        architecture=image.architecture,
        hypervisor="xen",
        root_device_type="ebs",
        root_device_name=image.root_device,
    )


def _parameter(image: Image, account_id: str) -> Parameter:
    return Parameter(  # type: ignore[abstract]
        account_id=account_id,
        name=image.parameter,
        value=image.id,
        parameter_type="String",
        description=None,
        allowed_pattern=None,
        keyid=None,
        last_modified_date=utcnow(),
        version=1,
        data_type="aws:ec2:image",
    )
