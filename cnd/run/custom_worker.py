"""The user's own script as the worker: its file, and the check of its claims.

One rule: a find is believed after the script itself has confirmed it here, on this
machine; one that it cannot confirm is reported as unverified, never as proved.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnd.errors import UsageError
from cnd.model.events import Event
from cnd.on_instance import script_runner
from cnd.system import private_files, small_files

CHECK_PATIENCE = 10.0  # seconds for a script to confirm a claim
MOST_BYTES = 1 << 20  # bytes of a script
MOST_TEXT = 200  # characters of an answer or a reason
TRUE, FALSE, UNKNOWN = "true", "false", "unknown"  # the verdicts


def name_of(path: Path) -> str:
    """Return the name of a script in a run's folder and on its hosts."""
    return (
        script_runner.SCRIPTS[0] if path.suffix == ".py" else script_runner.SCRIPTS[1]
    )


def read(path: Path) -> bytes:
    """Return a script's source.

    Raises:
        UsageError: it cannot be one.
    """
    try:
        with small_files.opened(path) as file:
            data = file.read(MOST_BYTES + 1)
        size = path.stat().st_size
    except OSError as error:
        message = f"--worker {str(path)!r} cannot be read: {error.strerror}"
        raise UsageError(message) from error
    if not data or len(data) > MOST_BYTES:
        limits = f"1 to {MOST_BYTES} bytes"
        raise UsageError(f"--worker {path.name}: must have {limits}, not {size}")
    if name_of(path) != script_runner.SCRIPTS[0] and not data.startswith(b"#!"):
        message = f"--worker {path.name}: neither Python (.py) nor with a first line #!"
        raise UsageError(message, hint="see docs/workers.md")
    first = data.split(b"\n", 1)[0]
    if name_of(path) != script_runner.SCRIPTS[0] and not first[2:].strip():
        message = f"--worker {path.name}: its first line #! names no interpreter"
        raise UsageError(message, hint="for example #!/bin/sh; see docs/workers.md")
    if name_of(path) != script_runner.SCRIPTS[0] and first.endswith(b"\r"):
        message = f"--worker {path.name}: its first line ends with a carriage return"
        hint = "no system finds such an interpreter: `sed -i 's/\\r$//'` removes them"
        raise UsageError(message, hint=hint)
    return data


def keep(path: Path, folder: Path) -> None:
    """Copy a script into a run's folder: later changes to the file have no effect."""
    target = folder / name_of(path)
    try:
        private_files.write(target, read(path))
        target.chmod(0o700)
    except OSError as error:
        message = f"cannot write to {folder}: {error.strerror}"
        raise UsageError(message, hint="make room there") from error


def judged(event: Event, script: Path, words: Sequence[str]) -> Event:
    """Return a script's claim with the verdict on it: see `check`."""
    nonce = event.fields.get("nonce")
    fields = {k: v for k, v in event.fields.items() if not k.startswith("verdict")}
    if not isinstance(nonce, int) or isinstance(nonce, bool):
        return replace(event, fields=fields)  # it names no nonce
    return replace(event, fields={**fields, **check(script, words, nonce)})


def check(
    script: Path,
    words: Sequence[str],
    nonce: int,
    *,
    patience: float = CHECK_PATIENCE,
) -> dict[str, str]:
    """Have a script check a claim; return `verdict` (true, false or unknown) and why.

    It is run as ``script WORDS --check NONCE`` and is to print one JSON object on its
    last line: ``{"valid": true, "answer": "..."}``.
    """
    program = [sys.executable] if script.name == script_runner.SCRIPTS[0] else []
    try:
        asked = subprocess.Popen(
            [*program, str(script), *words, "--check", str(nonce)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return _unknown(f"its check does not start: {error.strerror}")
    try:
        output, complaints = asked.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        os.killpg(asked.pid, signal.SIGKILL)  # with its child processes
        asked.communicate()
        return _unknown(f"its check took longer than {patience:g} s")
    answer = _object(output)
    if not isinstance(answer.get("valid"), bool):
        lines = complaints.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1][:MOST_TEXT] if lines else f"exit status {asked.returncode}"
        return _unknown(f"its script has no check ({why})")
    if not answer["valid"]:
        return {"verdict": FALSE, "verdict_reason": f"its own check refutes {nonce}"}
    found = {"verdict": TRUE, "verdict_reason": "its own check confirms it"}
    if isinstance(text := answer.get("answer"), str):
        found["answer"] = text[:MOST_TEXT]
    return found


def _unknown(why: str) -> dict[str, str]:
    return {"verdict": UNKNOWN, "verdict_reason": why}


def _object(output: bytes) -> dict[str, Any]:
    """Return the JSON object on the last line of `output`, or an empty one."""
    lines = output.decode("utf-8", "replace").strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
