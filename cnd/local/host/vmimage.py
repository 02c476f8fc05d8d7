"""The disk image that virtual machines boot: a Debian as on EC2, built once.

One rule: an image exists whole or not at all: it is built under another name and then
renamed.  Its name is a digest of its recipe, so that each recipe has its own image.

A cloud image has no host keys, no login user and no machine id: cloud-init makes them
at the first boot.  Building one needs root and debootstrap, booting it only qemu.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cnd.errors import CloudError, UsageError

QEMU = "qemu-system-x86_64"
# Program: the Debian package that has it.
TO_BOOT = {QEMU: "qemu-system-x86", "qemu-img": "qemu-utils"}
TO_BUILD = {"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs"}
BUILD_SECONDS = 1800.0  # it takes 2 minutes with a fast mirror
BUILD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

KVM = "/dev/kvm"
# All features of the processor, but one that kvm refuses in some virtual machines.
CPU = "max,-arch-capabilities"
PROBE_SECONDS = 10.0

# The address of the outer machine's loopback, in the network of a virtual machine.
OUTSIDE = "169.254.0.2"

RELEASE = "bookworm"
DISK = "4G"  # of which 0.8 are used; the file is sparse
PACKAGES = (
    *("linux-image-cloud-amd64", "systemd", "systemd-sysv", "dbus", "udev"),
    *("cloud-init", "python3-minimal", "python3-cffi-backend", "ca-certificates"),
    *("openssh-server", "sudo", "rsyslog", "ifupdown", "iproute2", "isc-dhcp-client"),
    "libpam-systemd",  # sessions of logind, as on EC2
)
FILES = {
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/hostname": "localhost\n",
    "etc/machine-id": "",
    "etc/network/interfaces": "source /etc/network/interfaces.d/*\n",
    # The first line is for any cloud, the others are in Debian's own images for EC2.
    "etc/cloud/cloud.cfg.d/90-ec2.cfg": (
        "datasource_list: [Ec2, None]\nmanage_etc_hosts: true\nlocale: C.UTF-8\n"
    ),
    # In the guest 127.0.0.1:PORT leads to the same port of the outer machine, since
    # pre-signed URLs contain it; the outer machine has the address OUTSIDE there.
    "etc/systemd/system/host-port@.socket": "[Socket]\nListenStream=127.0.0.1:%i\n",
    "etc/systemd/system/host-port@.service": (
        f"[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd {OUTSIDE}:%i\n"
    ),
}
IN_CHROOT = """
set -e
dpkg --configure -a
systemctl enable cloud-init-local cloud-init cloud-config cloud-final
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id
apt-get clean
"""


@dataclass(frozen=True)
class Image:
    """The files of an image; they are never written to."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk.img"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"


def place(images: str, state: Path) -> Path:
    """Return the folder of images: the given one, or one in the state folder."""
    return Path(images).absolute() if images else state / "images"


def find(folder: Path) -> Image:
    """Return the image of the current recipe in `folder`, existing or not."""
    recipe = repr((RELEASE, DISK, PACKAGES, sorted(FILES.items()), IN_CHROOT))
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    return Image(folder / f"debian-{RELEASE}-{digest}")


def prepare(
    folder: Path, *, mirror: str = "", say: Callable[[str], None] = lambda _: None
) -> Image:
    """Return the image in `folder`; build it first if needed, which takes minutes.

    Args:
        mirror: the source of the packages; empty: that of apt.
        say: called with a sentence about a step that takes minutes.

    Raises:
        UsageError: this machine cannot boot it, or cannot build it.
        CloudError: the build failed.
    """
    image = find(folder)
    require(image, path=os.environ.get("PATH", ""), root=os.geteuid() == 0)
    if image.folder.is_dir():
        return image
    folder.mkdir(parents=True, exist_ok=True)
    with _only_builder(folder):
        if not image.folder.is_dir():
            say(f"building a Debian image in {folder}: some minutes, this once")
            _build(image, mirror or apt_mirror(RELEASE))
    return image


def accelerator(image: Image) -> str:
    """Return "kvm" if that boots the kernel of `image`, else "tcg".

    Only a trial shows it: in a virtual machine /dev/kvm may exist and not work (seen:
    qemu fails an assertion, or the kernel prints nothing).  Without a disk the kernel
    panics, and qemu ends: within seconds if KVM works.
    """
    if not os.access(KVM, os.R_OK | os.W_OK):
        return "tcg"
    command = [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-accel", "kvm", "-cpu", CPU, "-m", "256M"),
        *("-kernel", str(image.kernel), "-append", "panic=-1"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return "tcg"
    return "kvm" if done.returncode == 0 else "tcg"


def apt_mirror(release: str) -> str:
    """Return the URL from which apt gets the packages of a Debian release, or "".

    Also "" on another distribution: debootstrap has a default mirror.
    """
    command = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    for line in listing.stdout.splitlines():
        name, _, uri = line.partition(" ")
        if name == release and uri.startswith("http"):
            return uri
    return ""


def require(image: Image, *, path: str, root: bool, system: str = BUILD_PATH) -> None:
    """Raise UsageError unless this machine can boot `image`, and build it if needed.

    Args:
        path: of the programs to boot; `system`: of the programs to build.
        root: whether the caller is root.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine != "x86_64":
        raise UsageError(
            f"virtual machines need Linux on x86-64, not {sys.platform} on {machine}",
            hint="without `--hosts vm` the hosts are processes",
        )
    built = image.folder.is_dir()
    wanted = [(path, TO_BOOT)] if built else [(path, TO_BOOT), (system, TO_BUILD)]
    missing = {
        program: package
        for where, programs in wanted
        for program, package in programs.items()
        if shutil.which(program, path=where) is None
    }
    if missing:
        raise UsageError(
            f"virtual machines need {', '.join(missing)}",
            hint=f"apt-get install {' '.join(missing.values())}",
        )
    if not built and not root:
        raise UsageError(
            "the image of virtual machines is not built yet, and only root can do that",
            hint="run `CND_LOCAL_IMAGES=/var/lib/cnd fab local up --hosts vm` as root "
            "once, and set the same variable",
        )


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    deadline = time.monotonic() + BUILD_SECONDS
    with open(folder / "lock", "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    message = "another command is building the image"
                    raise CloudError(message) from error
                time.sleep(0.5)
        yield


def _build(image: Image, mirror: str) -> None:
    """Build under another name, then rename, so that the image is never incomplete."""
    new = image.folder.with_name(image.folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    root, log = new / "root", image.folder.with_suffix(".log")
    deadline = time.monotonic() + BUILD_SECONDS
    include = "--include=" + ",".join(PACKAGES)
    source = [mirror] if mirror else []
    with open(log, "wb") as output:

        def run(*command: str | Path) -> None:
            _run(command, output.fileno(), log, deadline)

        run("debootstrap", "--variant=minbase", include, RELEASE, root, *source)
        run("chroot", root, "sh", "-c", IN_CHROOT)
        for name, text in FILES.items():
            (root / name).write_text(text)
        for link, place in (
            ("vmlinuz", new / "vmlinuz"),
            ("initrd.img", new / "initrd"),
        ):
            shutil.copy((root / os.readlink(root / link)), place)
        run("mkfs.ext4", "-q", "-d", root, new / "disk.img", DISK)
    shutil.rmtree(root)
    new.rename(image.folder)


def _run(
    command: Sequence[str | Path], output: int, log: Path, deadline: float
) -> None:
    """Run one step with mounts of its own, which end with it in any case."""
    step = subprocess.Popen(
        ["unshare", "--mount", "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={
            **os.environ,
            "PATH": BUILD_PATH,
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
        },
        start_new_session=True,
    )
    try:
        status = step.wait(deadline - time.monotonic())
    except subprocess.TimeoutExpired as error:
        raise CloudError(f"{command[0]} took too long", hint=f"see {log}") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(step.pid, signal.SIGKILL)
        step.wait()
    if status:
        lines = log.read_text(errors="replace").split("\n")
        filled = [line for line in lines if line.strip()]
        last = filled[-1] if filled else "no reason given"
        raise CloudError(f"{command[0]} failed: {last}", hint=f"see {log}")
