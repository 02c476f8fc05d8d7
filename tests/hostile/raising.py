"""Runs in which one function raises, once: a program of its own, see `test_end_raised`.

    python raising.py list                  what a run calls once it may have launched
    python raising.py PHASE/FUNCTION ...    a run for each, which raises there

Each case is one line of JSON.  The exceptions come from a profiling hook, which sees
every call of every thread; the program under test knows nothing of it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from cnd import ec2
from cnd.cli.tasks_plan import user_key
from cnd.cloud import connection
from cnd.errors import LeakError
from cnd.model import plan, run_name
from cnd.run import job, journal, shutdown
from cnd.transport import keys
from cnd.view import guarded, narrator

ROOT = Path(ec2.__file__).parent
KINDS = (
    *(RuntimeError, MemoryError, RecursionError, KeyError, KeyboardInterrupt),
    SystemExit,
)
LAUNCH = ec2.launch.__code__  # when it returns, instances may have been launched
FOLLOW = job.Job._follow.__code__  # when it is called, the launch is over
END = shutdown.Shutdown.terminated.__code__  # the fleet's end begins
PHASES = ("launching", "searching", "ending")
PLAN = plan.Plan(difficulty=1, instances=1, time_limit=30, kernel="hashlib")


def name(code: CodeType) -> str:
    """Return a function's name: its file, what it is called, and its line."""
    return f"{Path(code.co_filename).name}:{code.co_name}:{code.co_firstlineno}"


class Hook:
    """Sees every call of the product's functions; raises in one of them."""

    def __init__(self, target: str = "", phase: str = "", kind: Any = None) -> None:
        self._target, self._phase, self._kind = target, phase, kind
        self.phase = ""  # the present one; before all of them: nothing is launched
        self.called: dict[str, set[str]] = {each: set() for each in PHASES}
        self.raised: float | None = None  # when, seconds since the epoch

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "return" and code is LAUNCH:
            self.phase = PHASES[0]
        if event != "call" or not self.phase:
            return
        if not code.co_filename.startswith(str(ROOT)):
            return
        if code is FOLLOW:
            self.phase = PHASES[1]
        elif code is END:
            self.phase = PHASES[2]
        now = name(code)
        self.called[self.phase].add(now)
        meant = self._target in (now, now.rpartition(":")[0])
        if meant and self.phase == self._phase and self.raised is None:
            self.raised = time.time()
            raise self._kind("injected")


def run(hook: Hook, there: connection.Cloud, key: keys.UserKey) -> dict[str, Any]:
    """Do a run under a hook; return what came of it."""
    record = journal.Journal(run_name.new_run())
    record.create()
    threading.setprofile(hook)
    shown = guarded.BackgroundViewer(narrator.Narrator(PLAN))
    told: dict[str, Any] = {"run": record.run, "ended": "", "ids": []}
    made = job.Job(PLAN, there, record, view=shown)
    sys.setprofile(hook)
    try:
        result = made.execute(key)
        told |= {"ended": result.outcome.ending.outcome, "ids": result.leaked}
    except LeakError as error:
        told |= {"ended": "LeakError", "ids": error.ids, "hint": error.hint}
    except BaseException as error:
        told["ended"] = f"{type(error).__name__}: {error}"
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    zero = max(
        (e.time for e in record.events() if e.kind == "instance.terminated"),
        default=time.time(),
    )
    told["seconds"] = None if hook.raised is None else round(zero - hook.raised, 2)
    left = ec2.find(there.ec2, run=record.run, states=ec2.GOING)
    told["left"] = [instance.id for instance in left]
    shown.close()
    return told


def main(words: list[str]) -> None:
    there = connection.required(connection.connect("local", "", launch=True))
    key = user_key("")
    if words == ["list"]:
        hook = Hook()
        told = run(hook, there, key)
        called = {phase: sorted(found) for phase, found in hook.called.items()}
        print(json.dumps({**told, "called": called}), flush=True)
        return
    for i, word in enumerate(words):
        phase, _, target = word.partition("/")
        kind = KINDS[i % len(KINDS)]
        told = run(Hook(target, phase, kind), there, key)
        case = {"function": target, "phase": phase, "raised": kind.__name__}
        print(json.dumps({**case, **told}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
