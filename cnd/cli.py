"""How the command line becomes a call: the bridge to Invoke and Fabric.

One rule: nothing here knows what a task does.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import fabric
from fabric.executor import Executor as FabricExecutor
from fabric.main import Fab
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument

from cnd.errors import CndError, UsageError
from cnd.settings import DEFAULTS, setting, sources


class TwoDashes(str):
    """A one-letter option name that Invoke spells ``--t``.

    Invoke's `to_flag` gives every name of one letter a single dash, and people type
    ``fab start --t 200``.  It measures the name and strips it; a name that claims
    to have two letters and survives the stripping takes the other branch.
    """

    def __len__(self) -> int:
        return 2

    def lstrip(self, chars: str | None = None, /) -> TwoDashes:
        return self

    def rstrip(self, chars: str | None = None, /) -> TwoDashes:
        return self

    def replace(self, *args: Any, **kwargs: Any) -> TwoDashes:
        return self


class OptionalPositional(Argument):
    """An argument that stands without its option's name, or is left out.

    Invoke knows positional arguments only as required: as long as one has no value,
    its parser gives it the next word, and at the end it complains.  So there is none
    while the parser looks for the place of a word (in `handle`), and the default
    whenever anybody else asks.
    """

    @property
    def value(self) -> Any:
        if self._value is None and self._offered_a_word():
            return None
        return super().value

    @value.setter
    def value(self, text: str) -> None:
        self.set_value(text, cast=True)

    @staticmethod
    def _offered_a_word() -> bool:
        asking: list[str] = []  # the functions that ask, innermost first
        frame = inspect.currentframe()
        while frame and len(asking) < 5:
            asking.append(frame.f_code.co_name)
            frame = frame.f_back
        if "see_positional_arg" in asking:
            return True
        found = "missing_positional_args"
        return found in asking and asking[asking.index(found) + 1 :][:1] == ["handle"]


class Task(fabric.tasks.Task):  # type: ignore[misc]  # Fabric has no types
    """A task whose options may have a letter, spelled ``-t`` as well as ``--t``."""

    def __init__(
        self,
        *args: Any,
        letters: Mapping[str, str] | None = None,
        takes_rest: bool = False,
        **kwargs: Any,
    ) -> None:
        self.letters = dict(letters or {})
        self.takes_rest = takes_rest
        super().__init__(*args, **kwargs)

    def get_arguments(self, *args: Any, **kwargs: Any) -> list[Argument]:
        arguments: list[Argument] = super().get_arguments(*args, **kwargs)
        for argument in arguments:
            if argument.positional and argument.default is not None:
                argument.__class__ = OptionalPositional
            if letter := self.letters.get(argument.name or ""):
                argument.names = (*argument.names, letter, TwoDashes(letter))
        return arguments

    def __call__(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(context, fabric.Connection):
            message = f"-H {context.host}: this command runs here, not on a host"
            raise shown(UsageError(message, hint="leave out -H"))
        return super().__call__(context, *args, **kwargs)


def task(
    *,
    letters: Mapping[str, str] | None = None,
    takes_rest: bool = False,
    **options: Any,
) -> Callable[[Callable[..., None]], Task]:
    """Make a task of a function; `letters` maps parameters to one-letter options.

    With `takes_rest` words after ``--`` are for it: see `rest`.

    A `CndError` that leaves the function becomes one line and its exit status.
    Options of the names in `settings` that are left out are looked up there.
    """
    make = fabric.task(
        klass=Task,
        letters=letters,
        takes_rest=takes_rest,
        auto_shortflags=False,
        **options,
    )

    def decorate(body: Callable[..., None]) -> Task:
        made: Task = make(_reports_errors(_configured(body)))
        return made

    return decorate


def _configured(body: Callable[..., None]) -> Callable[..., None]:
    names = inspect.signature(body).parameters.keys() & DEFAULTS.keys()

    @functools.wraps(body)
    def wrapper(context: Any, *args: Any, **options: Any) -> None:
        files = sources(context.config) if names else []
        found = {n: setting(n, options.get(n, ""), files).value for n in names}
        body(context, *args, **{**options, **found})

    return wrapper


def _reports_errors(body: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(body)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            body(*args, **kwargs)
        except CndError as error:
            raise shown(error) from error
        except KeyboardInterrupt as error:
            raise Exit("cnd: interrupted", code=130) from error

    return wrapper


def shown(error: CndError) -> Exit:
    """Return what shows `error` as one line, its way out, and its exit status."""
    hint = f"\nhint: {error.hint}" if error.hint else ""
    return Exit(f"cnd: {error}{hint}", code=error.exit_status)


class Executor(FabricExecutor):  # type: ignore[misc]
    """Fabric's own, which takes what follows ``--`` for a command to run on hosts.

    Here it is for a task that takes it.  `fabric.yaml` names this class to `fab`.
    """

    def expand_calls(self, calls: Any, apply_hosts: bool = True) -> Any:
        if self.core.remainder:
            tasks = [getattr(call, "task", call) for call in calls]
            if any(not getattr(each, "takes_rest", False) for each in tasks):
                message = f"-- {self.core.remainder}: no words after -- are expected"
                raise shown(UsageError(message, hint="they go to start --worker FILE"))
            self.core.remainder = ""
        return super().expand_calls(calls, apply_hosts)


def rest() -> list[str]:
    """Return the words after ``--`` as they were given: Invoke would join them."""
    words = sys.argv[1:]
    return words[words.index("--") + 1 :] if "--" in words else []


@dataclass(frozen=True)
class Help:
    """What `--help` says: words before and after the commands, in groups."""

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
        super().__init__(*args, **kwargs)
        self._help = help

    def print_help(self) -> None:
        """Say what there is; Fabric's own options, which few need, are left out."""
        print(self._help)

    def parse_collection(self) -> None:
        """Read fabric.yaml in this folder too, as `fab` does beside its fabfile."""
        super().parse_collection()
        self.config.set_project_location(".")
        self.config.load_project()

    def parse_core(self, argv: list[str] | None) -> None:
        with_status_2(super().parse_core, argv)

    def parse_tasks(self) -> None:
        with_status_2(super().parse_tasks)


def with_status_2(parse: Callable[..., None], *args: Any) -> None:
    """Parse; what cannot be parsed is an impossible request, not a bug."""
    try:
        parse(*args)
    except ParseError as error:
        message = f"cnd: {error}\nhint: `cnd --list` shows the commands"
        raise Exit(message, code=2) from error
