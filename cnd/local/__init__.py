"""The local cloud: EC2, SQS, S3, STS and SSM on loopback, with hosts that boot.

One rule: the cloud is another process.  This module starts, finds and ends it; it
imports no part of the cloud itself, so that its import is cheap.

    endpoint = up()                     # idempotent; survives the caller
    boto3.client("ec2", endpoint_url=endpoint.url, ...)
    down()                              # hosts included
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cnd.errors import CloudError, UsageError
from cnd.local import account_kinds, files, settings
from cnd.local import weather as sky
from cnd.local.host import vmimage
from cnd.local.settings import Patience, Settings, patience
from cnd.system import folders, private_files
from cnd.system.typed_json import made

__all__ = [
    "Endpoint",
    "Patience",
    "clear_faults",
    "conditions",
    "down",
    "exports",
    "faults_laid",
    "lay_fault",
    "lives",
    "patience",
    "status",
    "summary",
    "up",
]

NEEDED = ("asyncssh", "flask", "flask_cors", "moto", "werkzeug", "yaml")
LOOPBACK = "http://127.0.0.1:"
TOKEN_HEADER = "X-Cnd-Token"
ANSWER_SECONDS = 2.0  # for the cloud to return its status
FAULT_SECONDS = 20.0  # to accept a fault: the first one may have to wait for moto
MOST_BYTES = 1 << 20  # of the cloud's status
POLL_SECONDS = 0.01
START_PATIENCE = 60.0  # seconds for the cloud to start, on a busy machine, too
PATIENCE = 20.0  # seconds for it to answer, or to end
KILL_SECONDS = 5.0
REAP_SECONDS = 1.0


@dataclass(frozen=True)
class Endpoint:
    """Where a cloud answers, and the credentials to call it with."""

    url: str  # "http://127.0.0.1:PORT"
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    pid: int
    folder: Path
    hosts: str = "process"  # the kind of its instances; or "vm"
    rate: float | None = None  # nonces/s of each host's worker at most
    weather: str = sky.CALM
    account_kind: str = account_kinds.DEFAULT
    policy: str = ""  # the file of the caller's rights; empty: all
    session_token: str = field(default="", repr=False)  # of a lab's credentials
    token: str = field(default="", repr=False)  # for /cnd/* and /faults


class Process(Protocol):
    """A process that was begun: of `subprocess.Popen`, what is needed of a cloud's."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit status; None while it runs."""


# With a cloud's folder, its environment and its log: begins the cloud's process.
Begin = Callable[[Path, Mapping[str, str], BinaryIO], Process]


def begin_process(
    folder: Path, environ: Mapping[str, str], log: BinaryIO
) -> subprocess.Popen[bytes]:
    """Begin the process of the cloud in `folder`, which outlives this one."""
    return subprocess.Popen(
        [sys.executable, "-m", "cnd.local.api.server", "--folder", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env=environ,
        start_new_session=True,
    )


def up(
    *,
    hosts: str = "",
    weather: str = "",
    account_kind: str = "",
    policy: str = "",
    say: Callable[[str], None] = lambda _: None,
    begin: Begin = begin_process,
) -> Endpoint:
    """Start the cloud unless it runs; return when it answers.

    The cloud is a process of its own, which outlives this one and its terminal.
    Concurrent callers start exactly one cloud.

    Args:
        hosts: the kind of instances: "process" or "vm"; empty: that of the running
            cloud, or else the setting in the environment.
        weather, account_kind, policy: as in `settings`; empty: as with `hosts`.
        say: called with a sentence about a step that takes minutes.
        begin: begins the cloud's process.

    Raises:
        UsageError: a setting in the environment is invalid, the running cloud has
            another kind of hosts, weather, account or policy, or this machine cannot
            boot the wanted kind.
        CloudError: it did not start within `START_PATIENCE` (the image of virtual
            machines, built once, is not included), or a package is missing.
    """
    given = {
        "CND_LOCAL_HOSTS": hosts,
        "CND_LOCAL_WEATHER": weather,
        "CND_LOCAL_ACCOUNT_KIND": account_kind,
        "CND_LOCAL_POLICY": policy,
    }
    environ = {**os.environ, **{name: text for name, text in given.items() if text}}
    wanted = settings.read(environ)
    _require_packages()
    folder = files.made_folder(os.environ)
    if wanted.hosts == "vm" and not files.is_alive(folder):
        place = vmimage.place(wanted.images, folder)
        image = vmimage.prepare(place, mirror=wanted.mirror, say=say)
        found = wanted.accelerator or vmimage.accelerator(image)
        environ["CND_LOCAL_ACCELERATOR"] = found
    with files.caller_lock(folder, time.monotonic() + START_PATIENCE):
        deadline = time.monotonic() + PATIENCE
        while files.is_alive(folder):
            if (running := _find(folder, "/cnd/touch")) is not None:
                _require_hosts(running, hosts)
                _require_rate(running, wanted.rate)
                _require_conditions(running, wanted, environ)
                return running
            if time.monotonic() > deadline:
                raise CloudError("the local cloud runs but does not answer")
            time.sleep(POLL_SECONDS)
        # The server, whose folder is another one, gets the seed and the whole path.
        environ["CND_LOCAL_WEATHER"] = str(wanted.weather)
        environ["CND_LOCAL_POLICY"] = wanted.policy.path
        return _start(folder, time.monotonic() + START_PATIENCE, environ, begin)


def conditions(endpoint: Endpoint) -> str:
    """Return in what a cloud differs from the usual one; empty: in nothing."""
    weather = "" if endpoint.weather == sky.CALM else endpoint.weather
    kind = endpoint.account_kind
    found = {
        "weather": weather,
        "account": "" if kind == account_kinds.DEFAULT else kind,
        "policy": endpoint.policy,
    }
    return ", ".join(f"{name} {value}" for name, value in found.items() if value)


def status() -> Endpoint | None:
    """Return the running cloud, or None if no cloud answers.

    Raises:
        CloudError: a cloud runs, but its address is not known.
    """
    try:
        return _find(files.state_folder(os.environ), "/cnd/status")
    except UsageError:  # there is no state folder, and so no cloud
        return None


def lives(endpoint: Endpoint) -> bool:
    """Tell whether this cloud, and not a later one, still lives, answering or not.

    Its hosts die with it, however it dies.
    """
    try:
        if not files.is_alive(endpoint.folder):
            return False
    except OSError:
        return True  # nothing proves its death
    record = files.read_endpoint(endpoint.folder)
    return record is None or record.get("pid") == endpoint.pid


def summary(endpoint: Endpoint) -> dict[str, Any]:
    """Return the cloud's status (GET /cnd/status).

    Raises CloudError if it does not answer.
    """
    try:
        return _get(endpoint.url + "/cnd/status", endpoint.token)
    except (OSError, ValueError) as error:
        raise CloudError(f"the local cloud does not answer: {error}") from error


def lay_fault(endpoint: Endpoint, fault: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a fault (docs/local-cloud.md lists them); return it as it was laid.

    Raises:
        UsageError: there is no such fault, or no such host.
        CloudError: the cloud does not answer.
    """
    laid = _faults(endpoint, "POST", json.dumps(fault).encode())
    assert isinstance(laid, dict)
    return laid


def faults_laid(endpoint: Endpoint) -> list[dict[str, Any]]:
    """Return the faults that are laid, each with its number of effects so far."""
    laid = _faults(endpoint, "GET")
    assert isinstance(laid, list)
    return laid


def clear_faults(endpoint: Endpoint) -> int:
    """Remove all faults; return their number.  A frozen host stays frozen."""
    return int(_faults(endpoint, "DELETE"))


def _faults(endpoint: Endpoint, method: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(endpoint.url + "/faults", body, method=method)
    request.add_header("Content-Type", "application/json")
    request.add_header(TOKEN_HEADER, endpoint.token)
    try:
        with _opener().open(request, timeout=FAULT_SECONDS) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        answer = json.load(error)
        raise UsageError(answer["error"], hint=answer.get("hint")) from error
    except (OSError, ValueError) as error:
        raise CloudError(f"the local cloud does not answer: {error}") from error


def down() -> bool:
    """End the cloud with all its hosts; return whether there was one.

    Raises CloudError if it still lives after `PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    folder = files.state_folder(os.environ)
    if not files.is_alive(folder) and files.read_endpoint(folder) is None:
        return False
    with files.caller_lock(folder, deadline):
        was_alive = files.is_alive(folder)
        pid = _pid(folder, deadline) if was_alive else None
        if pid is not None:
            _signal(pid, signal.SIGTERM)
            if not _wait_for_death(folder, pid, deadline):
                # Its hosts notice its death, and end.
                _signal(pid, signal.SIGKILL)
                if not _wait_for_death(folder, pid, time.monotonic() + KILL_SECONDS):
                    raise CloudError(f"process {pid} does not end")
        files.remove_endpoint(folder)
        return was_alive


def environment(endpoint: Endpoint) -> dict[str, str]:
    """Return the variables that make other programs' AWS libraries use the cloud."""
    return {
        "AWS_ENDPOINT_URL": endpoint.url,
        "AWS_DEFAULT_REGION": endpoint.region,
        "AWS_REGION": endpoint.region,
        "AWS_ACCESS_KEY_ID": endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
        **({"AWS_SESSION_TOKEN": token} if (token := endpoint.session_token) else {}),
    }


def exports(endpoint: Endpoint) -> list[str]:
    """Return the shell commands that make other AWS tools use the cloud.

    They set variables, and define a function, since version 1 of the AWS CLI ignores
    AWS_ENDPOINT_URL for SQS (awscli/customizations/overridesslcommonname.py).
    """
    variables = environment(endpoint)
    return [
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        'aws() { command aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }',
    ]


def _require_packages() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CloudError(
            f"the local cloud needs {', '.join(missing)}",
            hint="pip install 'cnd[local]'",
        )


def _require_hosts(running: Endpoint, hosts: str) -> None:
    if hosts and running.hosts != hosts:
        raise UsageError(
            f"the local cloud runs already, with --hosts {running.hosts}",
            hint="`fab local down` ends it, and its instances",
        )


def _require_rate(running: Endpoint, rate: float | None) -> None:
    if rate is not None and running.rate != rate:
        limit = f"CND_LOCAL_RATE={running.rate:g}" if running.rate else "no such limit"
        raise UsageError(
            f"CND_LOCAL_RATE={rate:g}: the local cloud runs already, with {limit}",
            hint="`fab local down` ends it, and its instances",
        )


def _require_conditions(
    running: Endpoint, wanted: Settings, environ: Mapping[str, str]
) -> None:
    """Refuse to use a cloud with another weather, account or policy than is wanted."""
    weather = environ.get("CND_LOCAL_WEATHER", "")
    habits = sky.parse(running.weather).habits
    same_weather = (
        str(wanted.weather) == running.weather
        if sky.has_seed(weather)
        else wanted.weather.habits == habits
    )
    checks = (
        ("CND_LOCAL_WEATHER", "--weather", running.weather, same_weather),
        (
            "CND_LOCAL_ACCOUNT_KIND",
            "--account-kind",
            running.account_kind,
            wanted.account.name == running.account_kind,
        ),
        (
            "CND_LOCAL_POLICY",
            "--policy",
            running.policy or "none",
            wanted.policy.path == running.policy,
        ),
    )
    for name, option, value, is_same in checks:
        if environ.get(name) and not is_same:
            raise UsageError(
                f"the local cloud runs already, with {option} {value}",
                hint="`fab local down` ends it, and its instances",
            )


def _start(
    folder: Path, deadline: float, environ: Mapping[str, str], begin: Begin
) -> Endpoint:
    files.remove_endpoint(folder)
    package_folder = str(Path(__file__).resolve().parents[2])
    search = [package_folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    (folder / files.LOG).unlink(missing_ok=True)
    with private_files.open_end(folder / files.LOG) as log:
        # asyncssh needs a home folder, and fails without one.
        home = {"HOME": str(folders.home() or "/")}
        path = {"PYTHONPATH": os.pathsep.join(search)}
        server = begin(folder, {**environ, **path, **home}, log)
    while (endpoint := _find(folder, "/cnd/status")) is None:
        late = time.monotonic() > deadline
        if late:
            _signal(server.pid, signal.SIGKILL)
        if late or server.poll() is not None:
            raise CloudError(
                "the local cloud did not start: "
                + (files.last_log_line(folder) or "no reason given"),
                hint=f"see {folder / files.LOG}",
            )
        time.sleep(POLL_SECONDS)
    return endpoint


def _find(folder: Path, path: str) -> Endpoint | None:
    # Another user's program may listen at the port of a cloud that died: it must get
    # no request, neither with the token nor with a signature.
    if (endpoint := _recorded(folder) or _settled(folder)) is None:
        return None
    if not files.is_alive(folder):
        return None
    try:
        answer = _get(endpoint.url + path, endpoint.token)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    if answer.get("pid") != endpoint.pid or answer.get("ending"):
        return None
    return endpoint


def _settled(folder: Path) -> Endpoint | None:
    """Read again a record that was missing, or not in the form that a cloud writes.

    A cloud writes and removes it in one piece, so one in another form is damaged.

    Raises:
        CloudError: the record is damaged, and the cloud lives, perhaps with hosts.
    """
    record = folder / files.ENDPOINT
    if not os.path.lexists(record):
        return None
    if (found := _recorded(folder)) is not None:
        return found
    if os.path.lexists(record) and files.is_alive(folder):
        message = f"the local cloud runs, but {record} is damaged"
        hint = f"end the process that `fuser {folder / 'alive'}` prints, and its hosts"
        raise CloudError(message, hint=hint)
    return None


def _recorded(folder: Path) -> Endpoint | None:
    """Return the record that a cloud has written; None if there is no valid one."""
    record = files.read_endpoint(folder)
    try:
        found = made(Endpoint, {**(record or {}), "folder": folder})
    except ValueError:
        return None
    return found if found.url.startswith(LOOPBACK) else None


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener that uses no proxy, as the cloud is on loopback."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _get(url: str, token: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={TOKEN_HEADER: token})
    try:
        with _opener().open(request, timeout=ANSWER_SECONDS) as reply:
            answer = json.loads(reply.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        raise ValueError(f"status {error.code}") from error
    except http.client.HTTPException as error:  # another program uses its port
        raise ValueError(f"no HTTP ({type(error).__name__})") from error
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    return answer


def _pid(folder: Path, deadline: float) -> int | None:
    """Return the living server's process id, or None if it has just ended.

    A server that has just started, or is about to end, has no record.
    """
    while files.is_alive(folder):
        if (endpoint := _recorded(folder)) is not None:
            return endpoint.pid
        if time.monotonic() > deadline:
            raise CloudError("the local cloud runs but left no record")
        time.sleep(POLL_SECONDS)
    return None


def _wait_for_death(folder: Path, pid: int, deadline: float) -> bool:
    while files.is_alive(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    # The lock is free when the process dies; its parent may still have to reap it.
    deadline = min(deadline, time.monotonic() + REAP_SECONDS)
    while _exists(pid) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return True


def _exists(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
