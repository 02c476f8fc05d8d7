"""The loader: receives a worker's files over SSH, and then becomes the worker.

It runs on a host, as the input of a program that an SSH session starts, on any Python
from 3.6 on, with the standard library only:

    python3 -I -S -c 'import sys; exec(sys.stdin.buffer.read(3000))' 'cat SYSLOG'

The argument is the command by which the watchdog reads the system log.  It is an
argument like those of other commands for a host, since a host of the local cloud
rewrites the paths in them.

The protocol, in lines of JSON (<- is sent by the loader):

    -> {"folder": ..., "former": [folders of earlier runs on this host]}
    <- {"machine": "x86_64", "magic": "a70d0d0a", "there": {"pow.py": SHA-256}}
    -> {"files": [[name, size, SHA-256]...], "packed": size, "code": size, "job": size,
        "part": name, "program": "pow.py", "pause": seconds}
    -> the missing files one after the other, in zlib's format; the code; the job
    <- the worker's output as it detaches, and its events from then on

It takes one session and one interpreter: most of the cost of a start, for a host far
away and for hundreds of hosts on one machine.  The code is the compiled program, for
the version of Python that compiled it; another version compiles the file.

One rule: a file is in the folder whole, under its name, or not at all.
"""

import contextlib
import hashlib
import json
import marshal
import os
import signal
import sys
import zlib
from _frozen_importlib_external import MAGIC_NUMBER
from typing import Any, Dict, Optional

PROGRAMS = (".py", ".so")  # how the names of programs end

# A shell waits, as it takes less memory than a Python.
WATCHDOG = 'sleep "$0"; exec python3 -I -S watchdog.py "$1" "$2" "$0"'


def send(answer: Dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def receive(size: int) -> bytes:
    data = sys.stdin.buffer.read(size)
    if len(data) != size:
        sys.exit("arrived cut short")
    return data


def present_files() -> Dict[str, str]:
    """Return the digests of the files in this folder, by name."""
    found = {}
    for name in os.listdir("."):
        if os.path.isfile(name):
            with open(name, "rb") as file:
                found[name] = hashlib.sha256(file.read()).hexdigest()
    return found


def take_over(former: str) -> None:
    """Link the programs of an earlier run into this folder, but none that is here.

    They are never changed in place: see `install`.
    """
    for name in os.listdir(former) if os.path.isdir(former) else []:
        if name.endswith(PROGRAMS):
            with contextlib.suppress(FileExistsError):
                os.link(os.path.join(former, name), name)


def install(name: str, data: bytes) -> None:
    """Write a file for its owner only; another loader may do so at the same time."""
    new = f".{name}.{os.getpid()}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
    os.replace(new, name)


def start_watchdog(job: str, pause: float, log: str) -> None:
    """Start the watchdog in `pause` seconds, even if this session ends before."""
    if os.fork():
        return
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.execvp("sh", ["sh", "-c", WATCHDOG, f"{pause:g}", job, log])


def compiled(name: str, code: bytes) -> Any:
    """Return a program as code: the received code, or the compiled file."""
    if code:
        return marshal.loads(code)
    with open(name, "rb") as file:
        return compile(file.read(), name, "exec")


def main() -> Optional[Any]:
    """Receive the files; return the code to run next, and set its arguments."""
    first = json.loads(sys.stdin.buffer.readline())
    os.makedirs(first["folder"], mode=0o700, exist_ok=True)
    os.chdir(first["folder"])
    for former in first["former"]:
        take_over(os.path.join(os.pardir, former))
    magic = MAGIC_NUMBER.hex()
    machine = os.uname()[4] + ("_darwin" if sys.platform == "darwin" else "")
    send({"machine": machine, "magic": magic, "there": present_files()})
    order = json.loads(sys.stdin.buffer.readline() or b"{}")
    if not order:
        return None  # the connection was lost
    data = zlib.decompress(receive(order["packed"]))
    code, job = receive(order["code"]), receive(order["job"])
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
    start_watchdog(job_file, order["pause"], sys.argv[1])
    sys.argv = [order["program"], "--job", job_file, "--detach", part, "--echo"]
    return compiled(order["program"], code)


if __name__ == "__main__":
    try:
        program = main()
    except OSError as error:
        sys.exit(f"cannot take the files: {error}")
    if program is not None:
        exec(program, {"__name__": "__main__", "__file__": sys.argv[0]})
