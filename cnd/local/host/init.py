"""The part of systemd on a host: units, timers, and the ways to power off.

One rule: `Init.request` answers as the real program would, with the same text and exit
status, and changes nothing outside the host.  The programs in the host's /bin send
requests through a named pipe (shims/control).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnd.local.host import units
from cnd.local.host.units import Unit

# systemctl(1): exit statuses of LSB.
NOT_RUNNING, NOT_FOUND = 3, 5
UNIT_FOLDERS = ("run/systemd/system", "etc/systemd/system", "usr/local/lib/systemd")
ALWAYS_ACTIVE = ("ssh.service", "sshd.service", "multi-user.target")
# The real message in `bootcmd`, before logind has started.
NO_LOGIND = (
    "Failed to connect to bus: No such file or directory\n"
    "Failed to schedule shutdown: the system has not finished booting"
)
SERVICE_SECONDS = 90.0  # DefaultTimeoutStartSec


@dataclass(frozen=True)
class Reply:
    status: int = 0
    text: str = ""


class Init:
    """Units and timers of one host.

    Args:
        tree: the host's file tree.
        run: runs a command as root; returns its exit status.
        power_off: ends the host.
        halt: stops the host, which stays and does nothing.
        log: writes a syslog line (tag, message).
    """

    def __init__(
        self,
        tree: Path,
        *,
        run: Callable[[Sequence[str]], Awaitable[int]],
        power_off: Callable[[], None],
        halt: Callable[[], None],
        log: Callable[[str, str], None],
    ) -> None:
        self._tree, self._run = tree, run
        self._power_off, self._halt, self._log = power_off, halt, log
        self._boot_time = time.monotonic()
        self._loaded: dict[str, Unit] = {}
        self._timers: dict[str, list[tuple[float, asyncio.TimerHandle]]] = {}
        self._shutdown: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[int]] = set()
        self.booted = False  # logind is up: `shutdown +N` works from here on

    async def request(self, program: str, words: Sequence[str]) -> Reply:
        """Execute the command `program words...`."""
        if program == "shutdown":
            return self._shut_down(words)
        if program != "systemctl":
            return self._end(program)
        flags = [word for word in words if word.startswith("-")]
        verb, *names = [word for word in words if not word.startswith("-")] or [""]
        units_named = [name if "." in name else f"{name}.service" for name in names]
        if verb == "start":
            return await self._start(units_named, wait="--no-block" not in flags)
        if verb in ("poweroff", "halt", "reboot"):
            return self._end(verb)
        answers: dict[str, Callable[[list[str]], Reply]] = {
            "daemon-reload": self._daemon_reload,
            "disable": lambda _: Reply(),
            "enable": lambda _: Reply(),
            "is-active": self._is_active,
            "is-system-running": self._is_system_running,
            "list-timers": self._list_timers,
            "reset-failed": lambda _: Reply(),
            "status": self._status,
            "stop": self._stop,
        }
        if verb not in answers:
            return Reply(1, f"Unknown command verb {verb}.")
        return answers[verb](units_named)

    # Ending.

    def _end(self, how: str) -> Reply:
        if how == "reboot":
            return Reply(1, "reboot is not available on a host of the local cloud")
        # As on a real instance, `halt` stops the processors but not the machine.
        (self._halt if how == "halt" else self._power_off)()
        return Reply()

    def _shut_down(self, words: Sequence[str]) -> Reply:
        """shutdown [-P|-h|-H|-r|-c] [now|+MINUTES]"""
        flags = "".join(word.lstrip("-")[:1] for word in words if word[:1] == "-")
        times = [word for word in words if word[:1] != "-"]
        if self._shutdown:
            self._shutdown.cancel()  # a new time replaces the old one
        if "c" in flags:
            return Reply()
        try:
            delay = units.shutdown_seconds(times[0] if times else "+1")
        except ValueError as error:
            return Reply(1, str(error))
        if "r" in flags:
            return self._end("reboot")
        if not delay:
            return self._end("halt" if "H" in flags else "poweroff")
        if not self.booted:
            return Reply(1, NO_LOGIND)
        loop = asyncio.get_running_loop()
        self._shutdown = loop.call_later(delay, self._power_off)
        self._log("systemd-logind", f"Power off scheduled in {delay:.0f} s.")
        return Reply()

    # Units.

    def _unit(self, name: str) -> Unit | None:
        """Return a unit: the loaded one, or else the one in its file."""
        if name in self._loaded:
            return self._loaded[name]
        for folder in UNIT_FOLDERS:
            path = self._tree / folder / name
            if path.is_file():
                self._loaded[name] = units.parse(name, path.read_text(errors="replace"))
                return self._loaded[name]
        return None

    async def _start(self, names: Sequence[str], *, wait: bool) -> Reply:
        for name in names:
            unit = self._unit(name)
            if unit is None and name in ALWAYS_ACTIVE:
                continue
            if unit is None:
                text = f"Failed to start {name}: Unit {name} not found."
                return Reply(NOT_FOUND, text)
            try:
                started = self._start_unit(unit)
            except ValueError as error:
                self._log("systemd", f"{name}: {error}")
                text = f"Failed to start {name}: Unit {name} has a bad unit file."
                return Reply(1, text)
            if started and wait and await started:
                return Reply(1, f"Job for {name} failed.")
        return Reply()

    def _start_unit(self, unit: Unit) -> asyncio.Task[int] | None:
        """Start a timer (returns None), or a service (returns its task).

        Raises ValueError for a bad unit file.
        """
        if unit.name.endswith(".timer"):
            self._start_timer(unit)
            return None
        service = asyncio.create_task(self._serve(unit.name, unit.commands))
        self._tasks.add(service)
        service.add_done_callback(self._tasks.discard)
        return service

    def _start_timer(self, unit: Unit) -> None:
        if unit.name in self._timers:
            return
        now = time.monotonic()
        due = [self._boot_time + seconds for seconds in unit.boot_seconds]
        due += [now + seconds for seconds in unit.active_seconds]
        if not due:
            raise ValueError("Timer unit lacks value setting. Refusing.")
        loop = asyncio.get_running_loop()
        self._timers[unit.name] = [
            (at, loop.call_later(max(0.0, at - now), self._elapse, unit)) for at in due
        ]
        self._log("systemd", f"Started {unit.name}.")

    def _elapse(self, timer: Unit) -> None:
        service = self._unit(timer.starts)
        try:
            if service is None:
                raise ValueError(f"unit {timer.starts} not found")
            self._start_unit(service)
        except ValueError as error:
            self._log("systemd", f"{timer.name}: {error}")

    async def _serve(self, name: str, commands: Sequence[Sequence[str]]) -> int:
        """Run the commands of a oneshot service until one fails; return its status."""
        self._log("systemd", f"Starting {name}...")
        for command in commands:
            try:
                status = await asyncio.wait_for(self._run(command), SERVICE_SECONDS)
            except (OSError, asyncio.TimeoutError) as error:
                self._log("systemd", f"{name}: {command[0]}: {error!r}")
                return 1
            if status:
                self._log("systemd", f"{name}: main process exited, status={status}")
                return status
        self._log("systemd", f"Finished {name}.")
        return 0

    def _active(self, name: str) -> bool:
        if name in self._timers:
            loop = asyncio.get_running_loop()
            return any(handle.when() > loop.time() for _, handle in self._timers[name])
        return name in ALWAYS_ACTIVE

    def _daemon_reload(self, names: Sequence[str]) -> Reply:
        self._loaded.clear()
        return Reply()

    def _is_active(self, names: Sequence[str]) -> Reply:
        states = [self._active(name) for name in names]
        text = "\n".join("active" if state else "inactive" for state in states)
        return Reply(0 if any(states) else NOT_RUNNING, text)

    def _is_system_running(self, names: Sequence[str]) -> Reply:
        return Reply(0, "running") if self.booted else Reply(1, "starting")

    def _status(self, names: Sequence[str]) -> Reply:
        states = {name: self._active(name) for name in names}
        lines = [
            f"{name}: {'active' if state else 'inactive'}"
            for name, state in states.items()
        ]
        return Reply(0 if all(states.values()) else NOT_RUNNING, "\n".join(lines))

    def _stop(self, names: Sequence[str]) -> Reply:
        for name in names:
            for _, handle in self._timers.pop(name, []):
                handle.cancel()
        return Reply()

    def _list_timers(self, names: Sequence[str]) -> Reply:
        now = time.monotonic()
        lines = [
            f"{at - now:.0f}s left {name}"
            for name, due in sorted(self._timers.items())
            for at, handle in due
            if not handle.cancelled() and at > now
        ]
        return Reply(0, "\n".join([*lines, f"{len(lines)} timers listed."]))
