"""The fork server by itself: orders in, reports out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cnd.local.host import wire


def test_a_host_that_is_killed_before_its_turn_to_boot_is_reported_lost(
    tmp_path: Path,
) -> None:
    spec = wire.HostSpec(
        id="i-0",
        address="127.0.0.1",
        port=0,
        user="ubuntu",
        public_key="",
        user_data="",
        cpus=(),
        delay=0.0,
        root=str(tmp_path / "tree"),
        programs=str(tmp_path / "bin"),
    )
    orders = [wire.boot(spec), {"kind": "fault", "id": "i-0", "what": "kill"}]
    done = subprocess.run(
        [sys.executable, "-m", "cnd.local.host.fork_server"],
        # At once, so that it reads both before it boots a host.
        input="".join(json.dumps(order) + "\n" for order in orders),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"kind": "lost", "id": "i-0", "status": 0}
    ]
    assert not (tmp_path / "tree").exists()
