#!/usr/bin/env python3
"""The first program of the user data: fetches the other files, then runs the agent.

It is a part of the user data, and so is short.  Like all programs of an instance it
needs only Python 3.6 or newer and the standard library:

    python3 bootstrap.py 128 'cat /var/log/syslog'

It runs beside boot.json, whose ``bundles`` give the URL and the digest of the files for
each machine architecture.  All arguments are the agent's.

One rule: nothing runs here whose digest is not the one in the user data.
"""

import hashlib
import io
import json
import os
import platform
import random
import sys
import time
import urllib.request
import zipfile
from http.client import HTTPException
from typing import List

ATTEMPTS, PAUSE = 100, 2.0  # until the network is up, and S3 not busy


def main(arguments: List[str]) -> str:
    """Start the agent; return an error message on failure."""
    with open("boot.json", encoding="utf-8") as file:
        bundles = json.load(file)["bundles"]
    bundle = bundles.get(platform.machine()) or bundles["x86_64"]
    for _ in range(ATTEMPTS):
        data = fetched(bundle["url"])
        if hashlib.sha256(data).hexdigest() == bundle["sha256"]:
            zipfile.ZipFile(io.BytesIO(data)).extractall()
            # In this process: another one would take a tenth of a second for its start
            # and imports, as long as all the rest.
            sys.path.insert(0, os.getcwd())
            import agent  # type: ignore[import-not-found, unused-ignore]

            sys.exit(agent.main(arguments))
        time.sleep(PAUSE * random.random())
    return "the files of the run did not arrive"


def fetched(url: str) -> bytes:
    """Return the bytes at a URL; none if it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return bytes(reply.read())
    except (OSError, HTTPException):
        return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
