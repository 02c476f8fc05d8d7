"""The data of a virtual machine of the local cloud, and its requirements."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cnd.errors import UsageError
from cnd.local import settings
from cnd.local.host import vm, vmdata, vmimage
from cnd.local.host.wire import HostSpec

USER_DATA = gzip.compress(b"#cloud-config\n{}\n") + b"\x00\r\n"


def spec(user_data: str = "", accelerator: str = "tcg") -> HostSpec:
    return HostSpec(
        id="i-1",
        address="127.64.0.1",
        port=22,
        user="admin",
        public_key="ssh-ed25519 KEY\n",
        user_data=user_data,
        cpus=(0, 1),
        delay=0.0,
        root="/hosts/i-1",
        programs="",
        image="/images/debian",
        accelerator=accelerator,
        cloud_port=4711,
    )


def image(folder: Path) -> vmimage.Image:
    """An image that was built."""
    built = vmimage.find(folder)
    built.folder.mkdir(parents=True)
    return built


def ask(path: str, *, method: str = "GET", user_data: str = "") -> tuple[str, bytes]:
    """Return status and body of an answer of the metadata service."""
    headers = {} if method == "PUT" else {"x-aws-ec2-metadata-token": "token"}
    reply = vmdata.answer(method, path, headers, vm.facts(spec(user_data)), "token")
    head, _, body = reply.partition(b"\r\n\r\n")
    return head.split(b" ", 1)[1].split(b"\r")[0].decode(), body


def test_a_machine_gets_its_user_data_byte_by_byte() -> None:
    encoded = base64.b64encode(USER_DATA).decode()

    assert ask("/latest/user-data", user_data=encoded) == ("200 OK", USER_DATA)
    assert ask("/latest/user-data")[0] == "404 Not Found"
    assert ask("/latest/user-data", user_data="a") == ("200 OK", b"")


def test_the_metadata_service_lists_and_answers_as_that_of_ec2() -> None:
    assert ask("/2021-03-23/meta-data/instance-id")[1] == b"i-1"
    assert b"public-keys/" in ask("/latest/meta-data/")[1].split(b"\n")
    assert ask("/latest/meta-data/public-keys/")[1] == b"0=cnd"
    key = ask("/latest/meta-data/public-keys/0/openssh-key")
    assert key == ("200 OK", b"ssh-ed25519 KEY")
    assert ask("/latest/meta-data/iam/info")[0] == "404 Not Found"
    assert ask("/latest/meta-data/instance-id/x")[0] == "404 Not Found"


def test_the_metadata_service_requires_a_token() -> None:
    assert ask("/latest/api/token", method="PUT") == ("200 OK", b"token")
    refused = vmdata.answer("GET", "/latest/meta-data/", {}, vm.facts(spec()), "token")
    assert refused.startswith(b"HTTP/1.0 401 ")


@pytest.mark.parametrize(
    "request_", [b"", b"GET\r\n\r\n", b"\xff " * 9999, b"a b c d\n"]
)
def test_an_invalid_request_gets_an_answer(request_: bytes, tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps({"facts": vm.facts(spec()), "token": "token"}))
    done = subprocess.run(
        [sys.executable, "-I", "-S", vmdata.__file__, facts],
        input=request_,
        capture_output=True,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"HTTP/1.0 401 ")


def test_a_machine_has_the_login_user_of_its_image_and_reaches_the_cloud() -> None:
    arguments = vm.kernel_arguments(spec())

    config = json.loads(arguments.partition("cc: ")[2].removesuffix(" end_cc"))
    assert config == {"system_info": {"default_user": {"name": "admin"}}}
    assert "systemd.wants=host-port@4711.socket" in arguments


def test_a_machine_answers_at_its_own_address_only() -> None:
    command = vm.command(spec(), Path("/hosts/i-1"))

    network = command[command.index("-netdev") + 1].split(",")
    assert "hostfwd=tcp:127.64.0.1:22-:22" in network
    assert command[command.index("-accel") + 1] == "tcg,thread=multi"


def test_kvm_is_used_where_it_works() -> None:
    command = vm.command(spec(accelerator="kvm"), Path("/hosts/i-1"))

    assert command[command.index("-accel") + 1] == "kvm"


def test_what_is_missing_is_named_with_the_packages_that_have_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="qemu-system-x86_64, qemu-img") as error:
        vmimage.require(image(tmp_path), path="", root=True)

    assert error.value.hint == "apt-get install qemu-system-x86 qemu-utils"


def test_only_root_can_build_the_image(tmp_path: Path) -> None:
    path = programs(tmp_path)
    with pytest.raises(UsageError, match="only root"):
        vmimage.require(vmimage.find(tmp_path), path=path, root=False, system=path)


def test_an_image_that_is_built_boots_without_root(tmp_path: Path) -> None:
    vmimage.require(image(tmp_path), path=programs(tmp_path), root=False)


def programs(folder: Path) -> str:
    """Return a PATH with all programs."""
    (folder / "bin").mkdir()
    for name in (*vmimage.TO_BOOT, *vmimage.TO_BUILD):
        (folder / "bin" / name).touch(mode=0o755)
    return str(folder / "bin")


def test_there_are_two_kinds_of_hosts() -> None:
    with pytest.raises(UsageError, match="process or vm, not 'container'"):
        settings.read({"CND_LOCAL_HOSTS": "container"})
