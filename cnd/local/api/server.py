"""The local cloud's process: an HTTP server in front of moto, and the hosts.

One rule: it accepts calls at once and loads moto meanwhile (about 1.5 s); an early call
waits until moto is loaded.  It listens on loopback only.  It ends on SIGTERM or when
idle, and ends every host.

Run by `cnd.local.up` as `python -m cnd.local.api.server --folder FOLDER`.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.serving import make_server

from cnd.errors import CloudError, CndError, UsageError
from cnd.local import files, settings
from cnd.local.api import faults, middleware, permissions
from cnd.local.api.faults import FaultRegistry
from cnd.local.api.host_manager import HostManager
from cnd.local.api.http_handler import Handler
from cnd.local.api.middleware import Activity
from cnd.local.api.permissions import Look
from cnd.local.api.weather.instances import InstanceTimes
from cnd.local.api.weather.layer import Sky, weathered
from cnd.local.api.weather.resources import Resources
from cnd.local.host import vm, vmimage
from cnd.local.host.guard import guarded
from cnd.local.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from cnd.local.account_kinds import AccountKind
    from cnd.local.api.instances import Instances
    from cnd.local.api.signatures import Keys

REGION = "us-east-1"
NEW_OBJECTS = 20_000  # before Python looks for garbage; by default 700
BACKLOG = 1024  # connections that wait to be accepted: as many as a large fleet has
LOAD_SECONDS = 60.0
LIVE = ("pending", "running", "shutting-down", "stopping")
WATCH_SECONDS = 0.25  # between two checks whether the cloud has been idle too long

# moto checks these only on request.
STRICT = {
    "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
    "MOTO_ENABLE_AMI_VALIDATION": "true",
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
    # No web page may read an answer: see `callers`.
    "MOTO_DISABLE_GLOBAL_CORS": "true",
    # moto uses boto3, which must not read the user's configuration.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class Moto:
    """moto's WSGI application, loaded in the background."""

    def __init__(
        self, hosts: HostManager, times: InstanceTimes, account: AccountKind
    ) -> None:
        self.instances: Instances | None = None
        self._hosts, self._times, self._account = hosts, times, account
        self._application: WSGIApplication | None = None
        self._ready = threading.Event()
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def __call__(
        self, environ: WSGIEnvironment, start: StartResponse
    ) -> Iterable[bytes]:
        self._ready.wait(LOAD_SECONDS)
        if self._application is None:
            start("503 Service Unavailable", [("Content-Length", "0")])
            return []
        return self._application(environ, start)

    def loaded(self) -> Instances:
        """Return the instances when moto is loaded."""
        self._ready.wait(LOAD_SECONDS)
        if self.instances is None:
            raise CloudError("the local cloud did not load")
        return self.instances

    def identity(self, region: str, name: str) -> str:
        return self._look().identity(region, name)

    def tags(self, region: str, identity: str) -> Mapping[str, str]:
        return self._look().tags(region, identity)

    def template(self, region: str, name: str) -> Mapping[str, Any]:
        return self._look().template(region, name)

    def _look(self) -> Look:
        self.loaded()
        from cnd.local.api.accounts import MotoLook

        return MotoLook()

    def _load(self) -> None:
        try:
            gc.disable()  # imports make no garbage; without collection a fifth faster
            from cnd.local.api import backends

            self.instances, self._application = backends.load(
                self._hosts, self._times, self._account
            )
            self._ready.set()
            backends.warm_up(self._application)
            gc.enable()
            gc.freeze()
            gc.set_threshold(NEW_OBJECTS)
            # From here on this thread waits for the hosts' reports.
            self._hosts.listen(self.instances.handle_report)
        finally:
            # Without moto or without the fork server there is no cloud.
            os.kill(os.getpid(), signal.SIGTERM)


class Server:
    """One local cloud."""

    def __init__(self, folder: Path, wanted: Settings) -> None:
        self._folder, self._wanted = folder, wanted
        self._started = time.monotonic()
        self._ending = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ending.set())
        self._faults = FaultRegistry()
        image = vmimage.find(vmimage.place(wanted.images, folder)).folder
        self._hosts = HostManager(
            folder,
            wanted.boot,
            self._faults.next_host_fault,
            image=str(image) if wanted.hosts == "vm" else "",
            accelerator=wanted.accelerator,
            rate=wanted.rate,
            gpu=wanted.gpu,
        )
        self._activity = Activity()
        # ASIA: temporary credentials, which have a token.
        begin = "AKIA" if wanted.session is None else "ASIA"
        self._access_key = begin + secrets.token_hex(8).upper()
        self._secret_key = secrets.token_urlsafe(30)
        self._session_token = (
            "" if wanted.session is None else secrets.token_urlsafe(300)
        )
        self._expires = (
            math.inf if wanted.session is None else time.time() + wanted.session
        )
        self._token = secrets.token_urlsafe(30)
        resources = Resources(wanted.weather.seed)
        times = InstanceTimes(wanted.weather, resources)
        self._sky = Sky(wanted.weather, times, resources)
        self._moto = Moto(self._hosts, times, wanted.account)

    def run(self) -> None:
        """Serve; return when all hosts are gone."""
        http = make_server(
            "127.0.0.1", 0, self._application(), threaded=True, request_handler=Handler
        )
        http.socket.listen(BACKLOG)
        http.daemon_threads = True  # type: ignore[attr-defined]
        threading.Thread(target=http.serve_forever, name="http", daemon=True).start()
        self._hosts.cloud_port = http.server_port
        files.write_endpoint(
            self._folder,
            {
                "url": f"http://127.0.0.1:{http.server_port}",
                "region": REGION,
                "access_key": self._access_key,
                "secret_key": self._secret_key,
                "session_token": self._session_token,
                "token": self._token,
                "pid": os.getpid(),
                "hosts": self._wanted.hosts,
                "rate": self._wanted.rate,
                "weather": str(self._wanted.weather),
                "account_kind": self._wanted.account.name,
                "policy": self._wanted.policy.path,
            },
        )
        while not self._ending.wait(WATCH_SECONDS):
            self._end_if_idle()
            self._hosts.keep_files()
            if instances := self._moto.instances:
                with guarded("slow shutdowns"):
                    instances.end_slow_ones()
                with guarded("removing terminated instances"):
                    instances.forget(self._wanted.memory)
                with guarded("scheduled actions"):
                    instances.keep_schedules()
        self._hosts.end()

    def _application(self) -> WSGIApplication:
        registry = self._faults
        status = middleware.control(self._status, self._activity.touch)
        fault_control = middleware.fault_control(
            self._lay_fault, registry.to_json, registry.clear
        )
        own = status(self._activity.layer(fault_control(middleware.not_found)))
        policy = self._wanted.policy.within(self._wanted.account.regions)
        layers = [
            middleware.programs_only,
            middleware.with_token(self._token, own),
            middleware.signed(self._keys),
            self._activity.layer,
            middleware.counted(self._activity.count),
            middleware.delayed(self._wanted.api),
            permissions.judged(policy, self._moto, middleware.refuse),
            middleware.faulty(registry),
            weathered(self._sky),
        ]
        application: WSGIApplication = self._moto
        for layer in reversed(layers):
            application = layer(application)
        return application

    def _keys(self) -> Keys:
        # Imported here, as botocore would delay the server's start.
        from cnd.local.api.signatures import Keys

        token, end = self._session_token, self._expires
        return Keys(self._access_key, self._secret_key, token, end)

    def _lay_fault(self, fields: Any) -> dict[str, Any]:
        if not isinstance(fields, dict):
            raise UsageError("a fault is described by a JSON object")
        if "host" in fields:
            fault = faults.parse_host(fields)
            if self._wanted.hosts == "vm" and fault.kind not in vm.FAULTS:
                kinds = ", ".join(vm.FAULTS)
                message = f"the fault of a virtual machine is one of {kinds}"
                raise UsageError(f"{message}, not {fault.kind!r}")
            if fault.place is None:
                self._moto.loaded().apply_fault(fault)
            return self._faults.add(fault)
        # Imported here, as botocore would delay the server's start.
        from cnd.local.api import actions

        return self._faults.add(faults.parse(fields, actions.known()))

    def _end_if_idle(self) -> None:
        if self._activity.idle_seconds <= self._wanted.idle:
            return
        if self._live():
            self._activity.touch()  # the idle time begins at the last instance's end
        else:
            self._ending.set()

    def _states(self) -> Counter[str]:
        return self._moto.instances.count() if self._moto.instances else Counter()

    def _live(self) -> int:
        states = self._states()
        return sum(states[state] for state in LIVE)

    def _status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "ending": self._ending.is_set(),
            "hosts": self._wanted.hosts,
            "weather": str(self._wanted.weather),
            "account_kind": self._wanted.account.name,
            "policy": self._wanted.policy.path or "none",
            "most_nonces_per_second_of_a_host": self._wanted.rate or "no limit",
            "accelerator": self._wanted.accelerator or "none needed",
            "up_seconds": round(time.monotonic() - self._started, 3),
            "idle_seconds": round(self._activity.idle_seconds, 3),
            "idle_limit_seconds": self._wanted.idle,
            "instances": dict(self._states()),
            "live": self._live(),
            "boot_seconds": [self._wanted.boot.low, self._wanted.boot.high],
            "api_seconds": [self._wanted.api.low, self._wanted.api.high],
            "addresses": self._hosts.addresses.pattern,
            "ssh_port": self._hosts.addresses.port,
            "calls": self._activity.counts,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="cnd.local.api.server")
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    os.umask(0o077)  # only the user may read the files of the cloud and its hosts
    try:
        wanted = settings.read(os.environ)
        with files.alive_lock(folder):
            _own_environment()
            shutil.rmtree(folder / "hosts", ignore_errors=True)
            Server(folder, wanted).run()
            shutil.rmtree(folder / "hosts", ignore_errors=True)
            files.remove_endpoint(folder)
            sys.stderr.flush()
            os._exit(0)  # without waiting for threads whose calls still wait
    except CndError as error:
        sys.exit(str(error))


def _own_environment() -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(STRICT)


if __name__ == "__main__":
    main()
