"""One instance as a virtual machine: a real Debian under qemu, until it powers off.

One rule: the guest gets the same as on EC2: the unchanged user data, the key pair's
key, the image's login user, and a network that reaches the cloud.  Nothing in it is
made for CND, and CND treats it as any other host.

The instance counts as running when SSH answers; its host key is the one that it shows.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from cnd.errors import CloudError
from cnd.local.host import processes, vmdata
from cnd.local.host.vmimage import CPU, OUTSIDE, QEMU, Image
from cnd.local.host.wire import HostSpec, Message

MEMORY = "1024M"
PATIENCE = 3600.0  # seconds for SSH to answer; longer than any run waits
ATTEMPT = 10.0  # seconds for one SSH handshake
PAUSE = 0.5  # seconds between two
STEP_SECONDS = 60.0  # for the overlay to be made
FACTS, DISK, CONSOLE = "facts.json", "disk.qcow2", "console.log"
# In the network of each machine, which has no other machine.
MAC, GUEST = "0a:00:00:00:00:01", "169.254.0.15"
ZONE = "us-east-1a"
# The faults that can be applied to a virtual machine from outside; see `faults`.
FAULTS = ("kill", "freeze", "thaw", "interrupt")


def serve(
    spec: HostSpec,
    report: Callable[[Message], None],
    life: int,
    booted: Callable[[], None],
) -> None:
    """Run the machine until it is killed or powers off.

    Args:
        report: sends a report to the server.
        life: a pipe that closes when the fork server ends; the machine then ends, too.
        booted: lets the fork server boot another machine.
    """
    processes.die_with_parent()
    if spec.cpus:
        os.sched_setaffinity(0, spec.cpus)
    # With the normal priority, unlike other hosts: without KVM a boot takes long.
    asyncio.run(_live(spec, report, life, booted))


async def _live(
    spec: HostSpec,
    report: Callable[[Message], None],
    life: int,
    booted: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, _end)
    loop.add_reader(life, _end)
    await asyncio.sleep(spec.delay)
    root = Path(spec.root)
    _write_files(spec, root)
    machine = await asyncio.create_subprocess_exec(
        *command(spec, root), stdin=asyncio.subprocess.DEVNULL
    )
    ended = asyncio.create_task(machine.wait())
    answer = asyncio.create_task(_host_key(spec.address, spec.port))
    await asyncio.wait([ended, answer], return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        report({"kind": "up", "id": spec.id, "host_key": answer.result()})
        booted()
    if status := await ended:
        # The fork server reports the machine lost.
        raise CloudError(f"{spec.id}: {QEMU} ended with status {status}")
    report({"kind": "poweroff", "id": spec.id})
    await loop.create_future()  # until killed


def _end() -> NoReturn:
    processes.kill_trees([os.getpid()], spare_roots=True)
    os._exit(0)


# Disk and metadata of the guest.


def _write_files(spec: HostSpec, root: Path) -> None:
    """Make the guest's disk, which grows as it writes, and its metadata."""
    root.mkdir(mode=0o700, parents=True)
    record = {"facts": facts(spec), "token": vmdata.new_token()}
    (root / FACTS).write_text(json.dumps(record))
    backing = ["-b", str(Image(Path(spec.image)).disk), "-F", "raw"]
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(root / DISK)],
        check=True,
        timeout=STEP_SECONDS,
    )


def facts(spec: HostSpec) -> dict[str, Any]:
    """Return the data of the machine's metadata service: see `vmdata`.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html
    """
    card = {"device-number": "0", "mac": MAC, "local-ipv4s": GUEST}
    data: dict[str, Any] = {
        "ami-launch-index": str(spec.launch_index),
        "hostname": spec.hostname,
        "instance-id": spec.id,
        "local-hostname": spec.hostname,
        "local-ipv4": GUEST,
        "mac": MAC,
        "network": {"interfaces": {"macs": {MAC: card}}},
        "placement": {"availability-zone": ZONE},
        "public-ipv4": spec.address,
    }
    if key := spec.public_key.strip():
        data["public-keys"] = {"0=cnd": {"openssh-key": key}}
    identity = {"instanceId": spec.id, "region": ZONE[:-1], "availabilityZone": ZONE}
    tree = {
        "meta-data": data,
        "dynamic": {"instance-identity": {"document": json.dumps(identity)}},
    }
    return {**tree, "user-data": spec.user_data} if spec.user_data else tree


def kernel_arguments(spec: HostSpec) -> str:
    """Return the kernel's command line, with settings that images on EC2 contain.

    The login user depends on the image, and the cloud's port on loopback on the cloud:
    `host-port@.socket` in the image forwards it to the machine outside.
    """
    user = {"system_info": {"default_user": {"name": spec.user}}}
    return (
        # Without KVM the mitigations took an eighth of the boot time.
        "root=/dev/vda rw console=ttyS0 mitigations=off "
        f"systemd.wants=host-port@{spec.cloud_port}.socket "
        f"cc: {json.dumps(user)} end_cc"
    )


def network(spec: HostSpec, root: Path) -> str:
    """Return the network of the machine: its own, with the metadata service in it.

    Without it, a request to 169.254.169.254 would reach the service of the machine
    outside, if that is an EC2 instance itself.
    """
    service = [sys.executable, "-I", "-S", vmdata.__file__, str(root / FACTS)]
    return ",".join(
        [
            "user,id=net,ipv6=off,net=169.254.0.0/16",
            f"host={OUTSIDE},dns=169.254.0.3,dhcpstart={GUEST}",
            f"hostfwd=tcp:{spec.address}:{spec.port}-:22",
            "guestfwd=tcp:169.254.169.254:80-cmd:"
            + shlex.join(service).replace(",", ",,"),
        ]
    )


def identity(instance: str) -> str:
    """Return a UUID in the form by which programs recognize an EC2 instance."""
    digits = ("ec2" + hashlib.sha256(instance.encode()).hexdigest())[:32]
    return str(uuid.UUID(digits))


def command(spec: HostSpec, root: Path) -> list[str]:
    """Return the command that runs the machine until it powers off.

    `root`: the folder of its metadata, disk and console output.
    """
    image = Image(Path(spec.image))
    name = identity(spec.id)
    drive = f"file={root / DISK},if=virtio,format=qcow2,cache=unsafe"
    accelerator = "kvm" if spec.accelerator == "kvm" else "tcg,thread=multi"
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-accel", accelerator),
        *("-cpu", CPU, "-smp", str(max(1, len(spec.cpus))), "-m", MEMORY),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", kernel_arguments(spec)),
        *("-drive", drive),
        *("-smbios", f"type=1,manufacturer=Amazon EC2,uuid={name},serial={name}"),
        *("-netdev", network(spec, root)),
        *("-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile="),
        *("-device", "virtio-rng-pci"),
        *("-serial", f"file:{root}/{CONSOLE}"),
    ]


# Whether it is up.


async def _host_key(address: str, port: int) -> str:
    """Return the host key when SSH answers; CloudError after PATIENCE seconds.

    qemu accepts connections long before its guest does.
    """
    import asyncssh  # here, as the cloud's process imports this file at its start

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            key = await asyncio.wait_for(
                asyncssh.get_server_host_key(
                    address, port, server_host_key_algs=["ssh-ed25519"], config=None
                ),
                ATTEMPT,
            )
        except (OSError, asyncssh.Error, asyncio.TimeoutError):
            key = None
        if key:
            return " ".join(key.export_public_key().decode().split()[:2])
        await asyncio.sleep(PAUSE)
    raise CloudError(f"{address}: no SSH answered within {PATIENCE:.0f} s")
