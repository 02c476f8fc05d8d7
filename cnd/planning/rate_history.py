"""What earlier runs measured, kept in the state folder: hash rates and boot times.

One rule: only what a run measured stands here; an estimate never gets in.  The file
is replaced as a whole, so it is never seen half; of two runs that end in the same
moment one may go unremembered, which costs nothing but a better estimate.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from cnd.model.catalog import Rate
from cnd.model.events import plain
from cnd.system import private_files, small_files
from cnd.system.typed_json import made

FILE = "rates.json"
KEPT = 10  # runs of each instance type, the newest
TOO_SHORT = 1.0  # seconds of search that measure little but starts and stops


@dataclass(frozen=True)
class Measured:
    """What one run told of one instance type."""

    nonces_per_second: float  # of one instance
    seconds: float  # of search
    boot: float  # seconds from the start until the first worker searched

    @property
    def is_possible(self) -> bool:
        """Whether a run can have measured this."""
        return self.nonces_per_second > 0 and min(self.seconds, self.boot) >= 0


@dataclass(frozen=True)
class Measurements:
    """What the newest runs together tell of an instance type."""

    rate: Rate  # of one instance
    boot: float  # seconds, the median


def key(cloud: str, account: str, instance_type: str, kernel: str) -> str:
    """Return what runs are remembered by.

    Args:
        account: of AWS; of the local cloud the rate that its hosts are held to.
    """
    return f"{cloud}/{account}/{instance_type}/{kernel}"


def remember(folder: Path, name: str, measured: Measured) -> None:
    """Add a run; one that was too short to measure, or cannot be kept, is forgotten."""
    if measured.seconds < TOO_SHORT or measured.nonces_per_second <= 0:
        return
    runs = _read(folder)
    runs[name] = [*runs.get(name, []), measured][-KEPT:]
    text = json.dumps({n: [asdict(m) for m in each] for n, each in runs.items()})
    try:
        private_files.write(private_files.folder(folder) / FILE, text + "\n")
    except OSError:
        return  # a full disk has been told of by the journal already


def recall(folder: Path, name: str) -> Measurements | None:
    """Return what is known of `name`: medians, which one busy hour does not move."""
    runs = _read(folder).get(name)
    if not runs:
        return None
    rate = statistics.median(run.nonces_per_second for run in runs)
    count = f"{len(runs)} earlier run{'s' if len(runs) > 1 else ''}"
    boot = statistics.median(run.boot for run in runs)
    return Measurements(Rate(rate, f"measured in {count}"), boot)


def _read(folder: Path) -> dict[str, list[Measured]]:
    """Return all that is kept; a file that makes no sense is as good as none."""
    try:
        found = plain(small_files.read(folder / FILE))
        kept = {name: [made(Measured, r) for r in runs] for name, runs in found.items()}
        return {n: [r for r in runs if r.is_possible] for n, runs in kept.items()}
    except (OSError, ValueError, TypeError):
        return {}
