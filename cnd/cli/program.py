"""The `cnd` program and what `fab` needs to run the same commands.

One rule: nothing here knows what a command does.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fabric.executor import Executor as FabricExecutor
from fabric.main import Fab
from invoke.exceptions import Exit, ParseError

from cnd.cli.output import left_at_once, reader_is_gone
from cnd.cli.settings import FABRIC, Config
from cnd.cli.task import Task, shown
from cnd.errors import UsageError
from cnd.model.events import printable_line

READERS = ("fabric.config", "invoke.config", "invoke.env")  # of Fabric's settings


def report_broken_settings() -> None:
    """Report settings that Fabric cannot read in one line; `fab` shows a traceback.

    This works from the fabfile on: `fab` reads ``~/.fabric.yaml`` before it.
    """
    usual = sys.excepthook

    def end(kind: Any, error: BaseException, trace: Any) -> None:
        if isinstance(error, Exception) and (place := _setting_read(trace)):
            why = str(error).strip().partition("\n")[0] or kind.__name__
            print(
                printable_line(f"cnd: {place} cannot be used: {why}"), file=sys.stderr
            )
            print("hint: `cnd` reads none of Fabric's settings", file=sys.stderr)
            reader_is_gone()
            os._exit(UsageError.exit_status)  # as in `ignore_lost_readers`
        usual(kind, error, trace)

    sys.excepthook = end


def _setting_read(trace: Any) -> str:
    """Return which of Fabric's settings was read when an error occurred, or ""."""
    found = ""
    for frame, _ in traceback.walk_tb(trace):
        if frame.f_globals.get("__name__") in READERS:
            names = (frame.f_locals.get(n) for n in ("real_var", "filepath", "path"))
            found = next((str(n) for n in names if n), found or "its configuration")
    return found


class Executor(FabricExecutor):  # type: ignore[misc]
    """Fabric's executor, but words after ``--`` belong to the task that takes them.

    Fabric takes them as a command to run on hosts.  `fabric.yaml` names this class.
    """

    leaves_at_once = False  # whether the process ends with the commands

    def execute(self, *tasks: Any) -> Any:
        with left_at_once() if self.leaves_at_once else contextlib.nullcontext():
            return super().execute(*tasks)

    def expand_calls(self, calls: Any, apply_hosts: bool = True) -> Any:
        if self.core.remainder:
            tasks = [getattr(call, "task", call) for call in calls]
            if any(not getattr(each, "takes_rest", False) for each in tasks):
                message = f"-- {self.core.remainder}: no words after -- are expected"
                raise shown(UsageError(message, hint="they go to start --worker FILE"))
            self.core.remainder = ""
        return super().expand_calls(calls, apply_hosts)


@dataclass(frozen=True)
class Help:
    """The text of `--help`: the commands in groups, text before and after them."""

    before: str
    groups: Mapping[str, tuple[Task, ...]]
    after: str

    def __str__(self) -> str:
        wide = max(len(task.name) for tasks in self.groups.values() for task in tasks)
        lines = [self.before]
        for title, tasks in self.groups.items():
            lines += ["", f"{title}:"]
            lines += [f"  {t.name:<{wide}}  {_first_line(t)}" for t in tasks]
        return "\n".join([*lines, "", self.after])


def _first_line(task: Task) -> str:
    return (task.__doc__ or "").strip().split("\n")[0]


class Program(Fab):  # type: ignore[misc]
    """The `cnd` program: Fabric's own, with CND's tasks, from any folder."""

    def __init__(self, *args: Any, help: Help, **kwargs: Any) -> None:
        classes = {"executor_class": Executor, "config_class": Config}
        super().__init__(*args, **classes, **kwargs)
        self._help = help

    def print_help(self) -> None:
        """Print the commands, without Fabric's own options, which few users need."""
        print(self._help)

    def update_config(self, merge: bool = True) -> None:
        """Leave the configuration as it is, and refuse a file of Fabric's settings."""
        if file := self.args.config.value:
            message = f"-f {file}: cnd reads none of Fabric's configuration"
            raise shown(UsageError(message, hint=f"options may stand in ./{FABRIC}"))

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Run the commands; a reader of the output that goes away stops nothing."""
        try:
            super().run(*args, **kwargs)
        except BrokenPipeError:
            if not reader_is_gone():
                raise
        finally:
            reader_is_gone()

    def parse_core(self, argv: list[str] | None) -> None:
        self._with_status_2(super().parse_core, argv)

    def parse_tasks(self) -> None:
        self._with_status_2(super().parse_tasks)

    def parse_cleanup(self) -> None:
        self._with_status_2(super().parse_cleanup)

    def _with_status_2(self, parse: Callable[..., None], *args: Any) -> None:
        """Parse; a command line that cannot be parsed is an impossible request."""
        try:
            parse(*args)
        except ParseError as error:
            commands = list(getattr(getattr(self, "parser", None), "contexts", ()))
            hint = way_out(error, commands)
            raise Exit(f"cnd: {error}\nhint: {hint}", code=2) from error
        except ValueError as error:  # of an option of Fabric's own that is a number
            raise Exit(f"cnd: {error}", code=2) from error


def way_out(error: ParseError, commands: Iterable[str]) -> str:
    """Return the hint for a parse error: a name that is close, or where to look."""
    task = error.context if error.context and error.context.name else None
    unknown = re.search(r"No idea what '(.*)' is!", str(error))
    word = unknown[1] if unknown else ""
    names = list(task.flags) if task and word.startswith("-") else [*commands]
    if close := difflib.get_close_matches(word, names, 1):
        return f"did you mean {close[0]}?"
    if task:
        return f"`cnd {task.name} --help` shows what it takes"
    return "`cnd --list` shows the commands"
