"""The user data of an instance: what it does at boot, before it is reached.

One rule: the lifetime timer is armed before anything else.  It works without the
caller and without a network, and needs no rights in the account: the instance
powers itself off, and AWS terminates what was launched with
``InstanceInitiatedShutdownBehavior=terminate``.

Every user of the instance can read its user data: a secret in it must be useless once
the run is over.
"""

from __future__ import annotations

import base64
import gzip
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnd.errors import UsageError
from cnd.on_instance import bootstrap
from cnd.transport.keys import KeyPair

MOST_BYTES = 16384  # of user data, before base64
FOLDER = "/var/lib/cnd"  # of the programs on an instance without SSH
# A placeholder for the index of a batch's first instance; see `numbered`.
FIRST = "{first}"

# Tried on a real boot (Debian 12, systemd 252, cloud-init 22.4): in `bootcmd`, the
# earliest place, `shutdown -P +N` is refused (no logind yet) and `systemd-run
# --on-active` hangs for ever, and the boot with it.  Separate units work at once.
# Every systemctl command has a `timeout`, so that none of them can block the boot.
UNITS = "/run/systemd/system"
TIMER = "[Unit]\nDefaultDependencies=no\n[Timer]\nOnBootSec={seconds}\nAccuracySec=1s\n"
# The same from now on, on an instance that runs.
AGAIN = (
    "[Unit]\nDefaultDependencies=no\n"
    "[Timer]\nOnActiveSec={seconds}\nAccuracySec=1s\nUnit=cnd-lifetime.service\n"
)
SERVICE = (
    "[Unit]\nDefaultDependencies=no\n"
    "[Service]\nType=oneshot\nExecStart=systemctl poweroff\n"
)


def user_data(*, lifetime: float, host_key: KeyPair) -> str:
    """Return the cloud-config of an instance, as text of at most 16 KB.

    Args:
        lifetime: seconds from boot until it powers itself off.
        host_key: of its sshd, so that it is known before the first connection.
    """
    config = {
        "bootcmd": _timer_commands(int(lifetime)),
        "ssh_keys": {
            "ed25519_private": host_key.private,
            "ed25519_public": host_key.public,
        },
    }
    # JSON is valid YAML, and needs no further library.
    return f"#cloud-config\n{json.dumps(config, indent=1)}\n"


def without_ssh(*, lifetime: float, boot: Mapping[str, Any], log: str) -> str:
    """Return the cloud-config of instances that get their orders from S3.

    `numbered` completes it.

    Args:
        boot: what `agent.py` reads; its URLs are secrets, so only root may read it.
        log: the command that prints the system log.
    """
    config = {
        "bootcmd": _timer_commands(int(lifetime)),
        "write_files": [
            _file("boot.json", json.dumps(boot).encode()),
            _file("bootstrap.py", Path(bootstrap.__file__).read_bytes()),
        ],
        # In the background: it runs as long as the instance, cloud-init does not.
        "runcmd": [
            f"cd {FOLDER} && umask 077 && "
            f"nohup python3 -I -S bootstrap.py {FIRST} {shlex.quote(log)} "
            "</dev/null >>agent.out 2>&1 &"
        ],
    }
    return f"#cloud-config\n{json.dumps(config, indent=1)}\n"


def check_size(user_data: str, *, token: int, block: int) -> None:
    """Refuse user data that is longer than EC2 takes.

    Args:
        token: the length of the session token that its URLs carry, in characters.
        block: the length of the block that it names.

    Raises:
        UsageError: with what makes it long, and the ways out.
    """
    if (size := len(user_data.encode())) <= MOST_BYTES:
        return
    message = (
        f"the instances' user data would have {size:,} bytes, EC2 takes "
        f"{MOST_BYTES:,}: the session token in its URLs has {token:,} characters, "
        f"the block {block:,}"
    )
    hint = (
        "credentials with a shorter token or none, as an access key has; a shorter "
        "--block; or --bootstrap ssh, which needs no URLs"
    )
    raise UsageError(message, hint=hint)


def numbered(user_data: str, first: int) -> str:
    """Return the user data of a batch whose first instance has the index `first`."""
    return user_data.replace(FIRST, str(first))


def rearming(seconds: float, run: str) -> str:
    """Return the shell command that replaces the lifetime timers of an instance.

    The new one is active before the others are stopped: at every moment one is armed.

    Args:
        seconds: from then on until the instance powers itself off.
        run: names the new timer.
    """
    new = f"cnd-lifetime-{run}.timer"
    commands = [
        f"test -e {UNITS}/cnd-lifetime.service",  # what every timer starts
        _write(new, AGAIN.format(seconds=int(seconds))),
        "timeout 20 systemctl daemon-reload",
        f"timeout 20 systemctl start {new}",
        f"timeout 20 systemctl is-active {new}",
        f"cd {UNITS}",
        f"for old in cnd-lifetime*.timer; do test $old = {new} || "
        "{ timeout 20 systemctl stop $old && rm -f $old; } || exit 1; done",
    ]
    return f"sudo -n sh -c {shlex.quote(' && '.join(commands))}"


def _file(name: str, data: bytes) -> dict[str, str]:
    return {
        "path": f"{FOLDER}/{name}",
        "permissions": "0600",
        "encoding": "gz+b64",
        "content": base64.b64encode(gzip.compress(data, mtime=0)).decode(),
    }


def _timer_commands(seconds: int) -> list[str]:
    return [
        f"mkdir -p {UNITS}",
        _write("cnd-lifetime.timer", TIMER.format(seconds=seconds)),
        _write("cnd-lifetime.service", SERVICE),
        "timeout 20 systemctl daemon-reload",
        "timeout 20 systemctl start --no-block cnd-lifetime.timer",
    ]


def _write(name: str, text: str) -> str:
    escaped = text.replace("\n", "\\n")
    return f"printf '{escaped}' >{UNITS}/{name}"
