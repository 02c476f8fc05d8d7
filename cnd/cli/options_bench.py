"""The option table of `bench`: the first word chooses the bench, and so its options.

One rule: as in `options`; a bench refuses the options of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cnd.bench import speedup
from cnd.cli import arguments
from cnd.cli.option_fields import Options, again, flag, option
from cnd.cli.options import (
    CLOUD,
    AccessOptions,
    CloudOptions,
    FleetOptions,
    JsonOptions,
    SearchOptions,
    UserResourceOptions,
)
from cnd.cli.parsers import (
    chart,
    choice,
    names,
    number,
    optional,
    seconds,
    whole,
    whole_list,
)
from cnd.cli.settings import DEFAULTS
from cnd.errors import UsageError
from cnd.model.plan import HASH_DIGITS, MAX_INSTANCES

BOTH = "scaling, types: "  # how the help of an option of these two begins
SIZES = "the N to compare, with commas: scaling (1,2,4,8), scale (8,32,128,512)"
REPEAT = "scaling (5), scale (1), types (1): how many runs of each"


def _times(text: str, option: str, example: str) -> dict[int, float]:
    """Parse the name of a file of times: seconds by N."""
    path = arguments.existing_file(text, option)
    try:
        return speedup.others(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{option} {text!r} is no text") from error


@dataclass(frozen=True)
class BenchOptions(JsonOptions):
    """What every bench takes."""

    what: str = option(
        parse=choice("kernel", "scale", "scaling", "types"),
        positional=True,
        title="fab bench",
        help="kernel: the search kernels side by side on one core; scaling: the "
        "same search on fleets of N; scale: what the whole runs of fleets of N take of "
        "this machine, and push, run and fetch by CND and others; types: the rate and "
        "price of instance types",
    )


@dataclass(frozen=True)
class _Measured(Options):
    """How long a bench measures."""

    seconds: float = option(
        parse=seconds, default="10", help="kernel, types: how long to measure (10)"
    )


@dataclass(frozen=True)
class _Searches(Options):
    """Searches for a nonce by fleets of different sizes."""

    difficulty: int = option(
        "d",
        parse=whole(0, HASH_DIGITS),
        default="5",
        help="scaling, scale: D, leading zero hex digits (5)",
    )
    time_limit: float = option(
        "t",
        parse=seconds,
        default="3600",
        help="scaling, scale: T, seconds of search of each run at most (3600)",
    )


@dataclass(frozen=True)
class OnCloudOptions(CloudOptions, BenchOptions):
    """What the benches take that may run on AWS, and draw a chart."""

    block: str = again(SearchOptions, "block", BOTH)
    image: str = again(FleetOptions, "image", BOTH)
    subnet: str = again(FleetOptions, "subnet", BOTH)
    ssh_from: str = again(AccessOptions, "ssh_from", BOTH)
    key_file: Path | None = again(UserResourceOptions, "key_file", BOTH)
    budget: float | None = option(
        parse=optional(number("an amount of USD such as 1.50")),
        default=DEFAULTS["budget"],
        help=f"{BOTH}USD; refuse if all runs may cost more",
    )
    chart: Path | None = option(
        parse=optional(chart), help=f"{BOTH}a file for the chart, .svg or .png"
    )
    csv: bool = flag(help=f"{BOTH}print comma-separated values")


@dataclass(frozen=True)
class KernelBenchOptions(_Measured, BenchOptions):
    """The options of `bench kernel`."""

    example = "for example: fab bench kernel"


@dataclass(frozen=True)
class ScaleBenchOptions(_Searches, BenchOptions):
    """The options of `bench scale`."""

    example = "for example: fab bench scale --n 8,32,128 --repeat 3"
    instances: tuple[int, ...] = option(
        "n", parse=whole_list(1, MAX_INSTANCES), default="8,32,128,512", help=SIZES
    )
    repeat: int = option(parse=whole(1, 1000), default="1", help=REPEAT)
    rivals: bool = flag(
        default=True,
        help="scale: leave out the others: Fabric's ThreadingGroup, GNU parallel, "
        "parallel-ssh, where they are installed",
    )
    cloud: str = option(
        parse=choice("local"), default="local", title="bench scale --cloud", help=CLOUD
    )


@dataclass(frozen=True)
class ScalingBenchOptions(_Searches, OnCloudOptions):
    """The options of `bench scaling`."""

    example = "for example: fab bench scaling --n 1,2,4,8 --d 5 --repeat 5"
    instances: tuple[int, ...] = option(
        "n", parse=whole_list(1, MAX_INSTANCES), default="1,2,4,8", help=SIZES
    )
    repeat: int = option(parse=whole(1, 1000), default="5", help=REPEAT)
    instance_type: tuple[str, ...] = again(FleetOptions, "instance_type", "scaling: ")
    beside: Mapping[int, float] | None = option(
        parse=optional(_times),
        help="scaling: a CSV file of N,SECONDS to put beside, instead of the "
        "coursework report's own times",
    )


@dataclass(frozen=True)
class TypesBenchOptions(_Measured, OnCloudOptions):
    """The options of `bench types`."""

    example = "for example: fab bench types --types t3.micro,c5.large --repeat 3"
    types: tuple[str, ...] = option(
        parse=names, help="types: instance types, with commas"
    )
    repeat: int = option(parse=whole(1, 1000), default="1", help=REPEAT)
