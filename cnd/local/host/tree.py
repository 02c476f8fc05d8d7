"""The file tree of one host, as it is when the host boots.

One rule: all files of a host lie below its tree, and its /bin comes first in every
PATH, so that no command of a host reaches the machine's own init.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cnd.local.host import clock
from cnd.local.host.wire import HostSpec

# Few, as each file or folder takes up to a millisecond, and there may be many hosts.
FOLDERS = (
    "etc",
    "home",
    "opt",
    "root",
    "run",
    "run/cnd",
    "run/systemd",
    "run/systemd/system",
    "tmp",
    "var",
    "var/log",
)
CONTROLS = ("systemctl", "shutdown", "poweroff", "halt", "reboot")
# Programs that may be in user data and would change the machine itself.
UNAVAILABLE = (
    "apt",
    "apt-get",
    "chpasswd",
    "dnf",
    "hostnamectl",
    "init",
    "iptables",
    "loginctl",
    "mkfs",
    "modprobe",
    "mount",
    "nft",
    "passwd",
    "service",
    "snap",
    "swapoff",
    "swapon",
    "sysctl",
    "telinit",
    "timedatectl",
    "umount",
    "useradd",
    "userdel",
    "usermod",
    "yum",
)
OWN = ("logger", "sudo", "systemd-run", "journalctl", "cloud-init", "hostname")
SHELL = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
PROGRAMS = frozenset({*CONTROLS, *UNAVAILABLE, *OWN, "python3"})
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def build_programs(folder: Path) -> None:
    """Make the folder of programs that all hosts of a cloud share as /bin.

    The programs find the tree of their host by the path of their call.
    """
    folder.mkdir(parents=True)
    (folder / "python3").symlink_to(python())
    shims = Path(__file__).with_name("shims")
    sources = (
        {name: name for name in OWN}
        | dict.fromkeys(CONTROLS, "control")
        | dict.fromkeys(UNAVAILABLE, "unavailable")
    )
    for name, source in sources.items():
        shim = (shims / source).read_bytes()
        if name == "logger" and _bash_tells_time():
            shim = shim.replace(b"/bin/sh", b"/bin/bash", 1)
        _write(folder / name, shim, 0o755)


def _bash_tells_time() -> bool:
    """Tell whether bash(1) is new enough that `logger` does not need date(1).

    A further process for each line is slow when hundreds of hosts log at a time.
    """
    try:
        command = ["/bin/bash", "-c", "printf '%(%Y)T' -1"]
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def python() -> str:
    """Return the base interpreter: not that of a virtual environment, not a shim.

    A host must not have the packages of the cloud.
    """
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def home(spec: HostSpec) -> str:
    return f"{spec.root}/home/{spec.user}"


def environment(spec: HostSpec, user: str) -> dict[str, str]:
    """Return the whole environment of a command, with nothing of the cloud's own."""
    rate = {} if spec.rate is None else {"CND_RATE": str(spec.rate)}
    return {
        **rate,
        **spec.gpu,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": spec.metadata,
        "HOME": f"{spec.root}/root" if user == "root" else home(spec),
        "LANG": "C.UTF-8",
        "LOGNAME": user,
        "PATH": f"{spec.root}/bin:{SYSTEM_PATH}",
        "SHELL": SHELL,
        "TMPDIR": f"{spec.root}/tmp",
        "USER": user,
        **(clock.set_off(spec.fault_seconds) if spec.fault == "wrong-clock" else {}),
    }


def build(spec: HostSpec) -> None:
    """Make the tree; raises OSError (FileExistsError if it exists already)."""
    root = Path(spec.root)
    root.mkdir(mode=0o700)  # inside it, permissions are those of a real host
    for folder in (*FOLDERS, f"home/{spec.user}", f"home/{spec.user}/.ssh"):
        (root / folder).mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "bin").symlink_to(spec.programs)
    (root / "var/run").symlink_to("../run")
    _write(root / "etc/hostname", f"{spec.hostname}\n".encode(), 0o644)
    _write(root / "var/log/syslog", b"", 0o640)
    os.mkfifo(root / "run/cnd/control", 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
