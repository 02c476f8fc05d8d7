"""The loader: takes a worker's files from whoever is connected, and becomes the worker.

It runs on a host as the input of a program that an SSH session starts, on any Python
from 3.6 on, with the standard library only:

    python3 -I -S -c 'import sys; exec(sys.stdin.buffer.read(3000))' 'cat SYSLOG'

The word is the command by which the keeper reads the system log.  It stands where the
other commands for a host do: an embedded host takes their paths for its own.  What goes
to and fro, in lines of JSON:

    -> {"folder": ...}
    <- {"machine": "x86_64", "magic": "a70d0d0a", "there": {"pow.py": SHA-256}}
    -> {"files": [[name, size, SHA-256]...], "packed": size, "code": size, "job": size,
        "part": name, "program": "pow.py", "pause": seconds}
    -> the missing files one after the other, by zlib; the program's code; the job
    <- what the worker says as it detaches

One session and one interpreter: to a host far away, or to hundreds on one machine, that
is most of what a start costs.  The code is the compiled program, for the Python that it
was compiled by; another one compiles the file.

Its one rule: a file is here whole, under its name, or not at all.
"""

import hashlib
import json
import marshal
import os
import signal
import sys
import zlib
from _frozen_importlib_external import MAGIC_NUMBER
from typing import Any, Dict, Optional

# The shell that waits for it is smaller than a Python.
KEEPER = 'sleep "$0"; exec python3 -I -S keeper.py "$1" "$2" "$0"'


def say(answer: Dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def take(size: int) -> bytes:
    data = sys.stdin.buffer.read(size)
    if len(data) != size:
        sys.exit("arrived cut short")
    return data


def there() -> Dict[str, str]:
    """Return the digests of the files in this folder, by name."""
    found = {}
    for name in os.listdir("."):
        if os.path.isfile(name):
            with open(name, "rb") as file:
                found[name] = hashlib.sha256(file.read()).hexdigest()
    return found


def install(name: str, data: bytes) -> None:
    """Write a file for its owner only; somebody else may be about the same."""
    new = f".{name}.{os.getpid()}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
    os.replace(new, name)


def begin_keeper(job: str, pause: float, log: str) -> None:
    """Have the keeper start in a while, whatever becomes of this session."""
    if os.fork():
        return
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.execvp("sh", ["sh", "-c", KEEPER, f"{pause:g}", job, log])


def program_in(name: str, code: bytes) -> Any:
    """Return a program of this folder, compiled."""
    if code:
        return marshal.loads(code)
    with open(name, "rb") as file:
        return compile(file.read(), name, "exec")


def main() -> Optional[Any]:
    """Take the files; return the compiled program to go on as, its words in argv."""
    folder = json.loads(sys.stdin.buffer.readline())["folder"]
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.chdir(folder)
    say({"machine": os.uname()[4], "magic": MAGIC_NUMBER.hex(), "there": there()})
    order = json.loads(sys.stdin.buffer.readline() or b"{}")
    if not order:
        return None  # the connection was lost
    data = zlib.decompress(take(order["packed"]))
    code, job = take(order["code"]), take(order["job"])
    for name, size, digest in order["files"]:
        content, data = data[:size], data[size:]
        if hashlib.sha256(content).hexdigest() != digest:
            sys.exit("arrived damaged: " + name)
        install(name, content)
    part = order["part"]
    job_file = part + ".json"
    events = os.path.join(part, "events.jsonl")
    if os.path.exists(events) and os.path.getsize(events):
        sys.exit("a worker runs in this folder already")
    install(job_file, job)
    begin_keeper(job_file, order["pause"], sys.argv[1])
    sys.argv = [order["program"], "--job", job_file, "--detach", part]
    return program_in(order["program"], code)


if __name__ == "__main__":
    try:
        program = main()
    except OSError as error:
        sys.exit(f"cannot take the files: {error}")
    if program is not None:
        exec(program, {"__name__": "__main__", "__file__": sys.argv[0]})
