"""What a run takes of the orchestrator's machine, as N grows; other programs beside it.

One rule: pure.  Runs with the same N are shown by their medians; what the local cloud
takes, whose hosts are on the same machine, is counted apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cnd.model.format import table

PHASES = ("boot", "search", "stop", "logs", "scram", "total")


@dataclass(frozen=True)
class Run:
    """One whole run: how long it took, and what it took of this machine."""

    instances: int
    seconds: Mapping[str, float | None]  # by phase, as in `result.Seconds`
    processor: float  # seconds of the orchestrator
    memory: int  # bytes of the orchestrator at most
    threads: int  # of the orchestrator at most
    calls: Mapping[str, int]  # "ec2:RunInstances" -> how many, of all callers
    cloud: float  # processor seconds of the local cloud, hosts and workers included
    fetched: int  # syslogs; a host that boots long after the find has none


@dataclass(frozen=True)
class CostRow:
    """The medians of the runs with one N."""

    instances: int
    runs: int
    seconds: Mapping[str, float | None]
    processor: float
    memory: float
    threads: float
    calls: Mapping[str, float]
    cloud: float
    fetched: float

    @property
    def each(self) -> float:
        """The orchestrator's processor seconds for one instance."""
        return self.processor / self.instances

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "processor_per_instance": self.each}


@dataclass(frozen=True)
class Trial:
    """A file pushed to all hosts, run there, and the log fetched, by one program."""

    who: str  # the program
    instances: int
    seconds: float
    processor: float  # seconds of the program, children included
    done: float  # hosts whose log came, and has the line of the end


def medians(trials: Sequence[Trial]) -> list[Trial]:
    """Return a trial for each N and program, N ascending."""
    keys = {(trial.instances, trial.who): None for trial in trials}
    found = []
    for instances, who in sorted(keys, key=lambda key: key[0]):
        same = [
            trial
            for trial in trials
            if (trial.instances, trial.who) == (instances, who)
        ]
        found.append(
            Trial(
                who,
                instances,
                seconds=statistics.median(trial.seconds for trial in same),
                processor=statistics.median(trial.processor for trial in same),
                done=statistics.median(trial.done for trial in same),
            )
        )
    return found


def trials_text(trials: Sequence[Trial]) -> str:
    """Return the table to read: seconds of each, and hosts where not all were done.

    Args:
        trials: one for each N and program.
    """
    names = list({trial.who: None for trial in trials})
    lines = [
        "push, run and fetch on the same hosts, seconds; in brackets CPU seconds of "
        "the program",
    ]
    rows = [["N", *names]]
    for n in sorted({trial.instances for trial in trials}):
        of = {trial.who: trial for trial in trials if trial.instances == n}
        cells = [_trial_cell(of[name]) if name in of else "-" for name in names]
        rows.append([str(n), *cells])
    return "\n".join([*lines, *table(rows, (">5", ">19"))])


def _trial_cell(trial: Trial) -> str:
    short = (
        f" {trial.done:.0f}/{trial.instances}" if trial.done < trial.instances else ""
    )
    return f"{trial.seconds:.2f} ({trial.processor:.1f}){short}"


def rows(runs: Sequence[Run]) -> list[CostRow]:
    """Return a row for each N, ascending."""
    return [
        _row(n, [run for run in runs if run.instances == n])
        for n in sorted({run.instances for run in runs})
    ]


def calls_between(
    before: Mapping[str, int], after: Mapping[str, int]
) -> dict[str, int]:
    """Return how many calls came between two counts, by the names of those that did."""
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in sorted(grown.items()) if count}


def text(costs: Sequence[CostRow], difficulty: int) -> str:
    """Return the tables to read: seconds and memory, then calls by API."""
    runs = max(row.runs for row in costs)
    title = (
        f"whole runs, difficulty {difficulty}, local cloud, medians of {runs}; "
        "seconds, and what this process took of them as CPU"
    )
    heads = ["CPU", "ms each", "MB", "threads", "cloud CPU", "syslogs"]
    took = [["N", *PHASES, *heads]]
    took += [[str(row.instances), *_cells(row)] for row in costs]
    names = {name for row in costs for name, count in row.calls.items() if count}
    calls = [["calls, by all on it", *(str(row.instances) for row in costs)]]
    for name in sorted(names):
        counts = (row.calls.get(name, 0) for row in costs)
        calls.append([name, *(f"{count:.0f}" for count in counts)])
    return "\n".join([title, *table(took, (">5", ">10")), *table(calls, ("<36", ">9"))])


def _cells(row: CostRow) -> list[str]:
    phases = [row.seconds[phase] for phase in PHASES]
    return [
        *("-" if seconds is None else f"{seconds:.2f}" for seconds in phases),
        f"{row.processor:.2f}",
        f"{1000 * row.each:.0f}",
        f"{row.memory / 1e6:.0f}",
        f"{row.threads:.0f}",
        f"{row.cloud:.1f}",
        f"{row.fetched:.0f}",
    ]


def _row(n: int, runs: Sequence[Run]) -> CostRow:
    names = {name for run in runs for name in run.calls}
    return CostRow(
        instances=n,
        runs=len(runs),
        seconds={name: _median([run.seconds[name] for run in runs]) for name in PHASES},
        processor=statistics.median(run.processor for run in runs),
        memory=statistics.median(run.memory for run in runs),
        threads=statistics.median(run.threads for run in runs),
        calls={
            name: statistics.median(run.calls.get(name, 0) for run in runs)
            for name in sorted(names)
        },
        cloud=statistics.median(run.cloud for run in runs),
        fetched=statistics.median(run.fetched for run in runs),
    )


def _median(values: Sequence[float | None]) -> float | None:
    """Return the median of the known values; a run may lack a phase."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
