"""Temporary credentials, as a login gives them, for a user of the local cloud."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

from tests.support.terminal import Terminal


def log_in(
    terminal: Terminal, folder: Path, *, minutes: float, token: str = "t"
) -> None:
    """Give a user credentials with an end; their AWS is the local cloud.

    They come from a program that tells how long they hold, as a login's do.
    """
    told = terminal.exports()
    end = dt.datetime.now(dt.timezone.utc) + dt.timedelta(minutes=minutes)
    login = {
        "Version": 1,
        "AccessKeyId": told.pop("AWS_ACCESS_KEY_ID"),
        "SecretAccessKey": told.pop("AWS_SECRET_ACCESS_KEY"),
        "SessionToken": token,
        "Expiration": end.isoformat(),
    }
    (folder / "login.json").write_text(json.dumps(login))
    config = folder / "aws-config"
    config.write_text(f"[default]\ncredential_process = cat {folder}/login.json\n")
    terminal.environment |= {**told, "AWS_CONFIG_FILE": str(config)}
