"""The option table: the options of the commands, each declared once.

One rule: a command takes the fields of its dataclass, inherited ones included.  An
option that several commands share belongs to a group that they inherit.  Values are
checked one by one here; what depends on several is checked in `request`.  The options
of `bench` are in `options_bench`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cnd.cli.option_fields import (
    Options,
    flag,
    option,
    text,
    words_after_dashes,
)
from cnd.cli.parsers import (
    choice,
    existing_file,
    integer,
    names,
    number,
    optional,
    run_name,
    script,
    seconds,
    seconds_such_as,
    whole,
)
from cnd.cli.settings import DEFAULTS
from cnd.model.plan import (
    ADDRESSES,
    BOOTSTRAPS,
    DEFAULT_BLOCK,
    HASH_DIGITS,
    KERNELS,
    MAX_INSTANCES,
    MAX_NONCES,
)

EXAMPLE = "for example: fab start --t 200 --d 2 --n 8"
BLOCK = f"the block's text ({DEFAULT_BLOCK})"
CLOUD = "aws or local; default: aws if boto3 finds credentials, else local"
DIFFICULTY = "D, leading zero hex digits of the hash, 0 to 64"
EXPORT = "for example: fab export --format csv"
RUN = "its name, or the beginning or end of it; default: the newest"


# --- the groups that commands share


@dataclass(frozen=True)
class JsonOptions(Options):
    """OUTPUT: what a command prints to stdout."""

    json: bool = flag(help="print one JSON object to stdout, and nothing else")


@dataclass(frozen=True)
class ViewOptions(JsonOptions):
    """OUTPUT: how a run is shown."""

    plain: bool = flag(help="lines instead of a table, as where there is no terminal")


@dataclass(frozen=True)
class CloudOptions(Options):
    """CLOUD: where a command looks and acts."""

    cloud: str = text(help=CLOUD)
    region: str = text(
        default=DEFAULTS["region"],
        help="AWS region; default: as boto3 is configured",
    )


@dataclass(frozen=True)
class FleetOptions(Options):
    """FLEET: which instances, and for how long."""

    example = EXAMPLE
    instances: int | None = option(
        "n",
        parse=optional(whole(1, MAX_INSTANCES)),
        help="N, how many EC2 instances (1, or what --confidence needs)",
    )
    instance_type: tuple[str, ...] = option(
        parse=names,
        default=DEFAULTS["instance_type"],
        help="EC2 instance type, or several: the cheapest first; auto: the one that "
        "costs least for this search, CPU or GPU (t3.micro)",
    )
    time_limit: float = option(
        "t",
        parse=seconds,
        default="200",
        help="T, seconds of search after which all workers stop (200)",
    )
    image: str = text(
        default=DEFAULTS["image"],
        help="ubuntu, al2023, debian, gpu (with NVIDIA's driver), ami-... or auto: gpu "
        "for types with GPUs, else ubuntu (auto)",
    )
    subnet: str = text(
        help="subnet-..., or several to try in turn; default: the default VPC's"
    )
    spot: bool = flag(help="spot instances: cheap, and AWS may take them back")
    spot_or_on_demand: bool = flag(help="spot instances, and on demand what is missing")
    hold: bool = flag(
        help="an Auto Scaling group replaces what is lost, for long searches"
    )


@dataclass(frozen=True)
class AccessOptions(Options):
    """ACCESS: how the instances are reached."""

    user: str = text(help="login user of the image; default: as its publisher has it")
    address: str = option(
        parse=choice(*ADDRESSES),
        default="public",
        help="the addresses that SSH uses: public or private (public)",
    )
    gateway: str = text(help="user@host:port, a jump host for SSH")
    ssh_from: str = text(
        help="CIDR from which SSH is allowed; default: this machine's address"
    )


@dataclass(frozen=True)
class UserResourceOptions(Options):
    """ACCESS: what the user may provide instead of CND."""

    bucket: str = text(help="an S3 bucket of yours for the logs; default: CND's own")
    key_file: Path | None = option(
        parse=optional(existing_file),
        help="an SSH private key of yours; default: CND's own",
    )


@dataclass(frozen=True)
class SearchOptions(Options):
    """SEARCH: what is looked for, and what it may cost."""

    difficulty: int | None = option(
        "d", parse=optional(whole(0, HASH_DIGITS)), help=DIFFICULTY
    )
    block: str = text(default=DEFAULTS["block"], help=BLOCK)
    nonces: int = option(
        parse=whole(1, MAX_NONCES),
        default="2**32",
        help="size of the nonce space, up to 2**64 (2**32)",
    )
    smallest: bool = flag(
        help="the smallest golden nonce, whatever N: finish all classes up to it"
    )
    kernel: str = option(
        parse=choice(*KERNELS),
        default="auto",
        help="search with this one only (auto: the fastest on each host)",
    )
    confidence: float | None = option(
        parse=optional(number("a chance such as 0.95")),
        help="a chance such as 0.95 to find a nonce within T: chooses N",
    )
    budget: float | None = option(
        parse=optional(number("an amount of USD such as 1.50")),
        default=DEFAULTS["budget"],
        help="USD; refuse if the worst case costs more",
    )


# --- the run


@dataclass(frozen=True)
class RunOptions(JsonOptions, CloudOptions, AccessOptions, SearchOptions, FleetOptions):
    """What `start` and `plan` take: an option of both is a line here."""

    at_least: int | None = option(
        parse=optional(integer),
        help="accept K instances where there is no room for N (N)",
    )
    bootstrap: str = option(
        parse=choice(*BOOTSTRAPS),
        default="auto",
        help="ssh, user-data (no SSH: all through S3) or auto (by N)",
    )
    boot: float | None = option(
        parse=optional(seconds_such_as("for example: --boot 1200")),
        help="seconds from the launch until SSH must answer (300, of types with GPUs "
        "900); metal takes more",
    )


@dataclass(frozen=True)
class PlanOptions(RunOptions):
    """The options of `plan`."""

    resume: str = text(help="plan what `resume RUN` would do, with the same options")


@dataclass(frozen=True)
class LaunchOptions(ViewOptions, UserResourceOptions, RunOptions):
    """What `start` and `resume` take besides."""

    keep: bool = flag(
        help="leave the fleet up for a look; its lifetime timer still runs"
    )
    replace: bool = flag(help="launch a new instance for one that is lost")


@dataclass(frozen=True)
class StartOptions(LaunchOptions):
    """The options of `start`."""

    on: str = text(
        help="search on the fleet that this run left with --keep: no launch, no boot",
    )
    extend: bool = flag(
        help="--on: set its lifetime timers anew where they end it before T"
    )
    worker: Path | None = option(
        parse=optional(script),
        help="search with a script of yours, called with the words after --",
    )
    no_report: bool = flag(help="write no report.html at the end")
    words: tuple[str, ...] = words_after_dashes()


@dataclass(frozen=True)
class ResumeOptions(LaunchOptions):
    """The options of `resume`; those that are left out are as RUN had them."""

    example = "for example: fab resume --n 16 --t 600"
    run: str = text(positional=True, help=f"the run to go on with: {RUN}")
    on_demand: bool = flag(help="on demand, where RUN had spot instances")
    no_replace: bool = flag(help="replace no lost instance, although RUN did")
    no_hold: bool = flag(help="no Auto Scaling group, although RUN had one")
    no_report: bool = flag(help="write no report.html at the end")


@dataclass(frozen=True)
class AttachOptions(ViewOptions):
    """The options of `attach`."""

    run: str = option(
        parse=run_name,
        positional=True,
        help="the run to take over; default: the one without an orchestrator",
    )


@dataclass(frozen=True)
class ScramOptions(JsonOptions, CloudOptions):
    """The options of `scram`."""

    run: str = option(
        parse=run_name,
        help="only this run; default: every run of CND in the account's region",
    )
    all_regions: bool = flag(help="in every region of the account")


@dataclass(frozen=True)
class StopOptions(JsonOptions, CloudOptions):
    """The options of `stop`."""

    run: str = option(
        parse=run_name, help="the run to stop; default: the one that is going on"
    )
    message: str = text(default="fab stop", help="the reason, for the log")


@dataclass(frozen=True)
class StatusOptions(JsonOptions, CloudOptions):
    """The options of `status`."""


# --- before and after a run


@dataclass(frozen=True)
class DoctorOptions(
    JsonOptions, CloudOptions, UserResourceOptions, AccessOptions, FleetOptions
):
    """The options of `doctor`."""


@dataclass(frozen=True)
class ConfigOptions(JsonOptions):
    """The options of `config`."""


@dataclass(frozen=True)
class CleanOptions(JsonOptions, CloudOptions):
    """The options of `clean`."""

    yes: bool = flag(help="remove it; without this it is only listed")
    bucket_too: bool = flag(
        help="also the bucket itself: S3 may refuse its name for an hour after that"
    )


@dataclass(frozen=True)
class VerifyOptions(JsonOptions):
    """The options of `verify`."""

    example = "for example: fab verify --nonce 116 --d 2"
    nonce: int = option(parse=whole(0, MAX_NONCES - 1), help="the nonce to check")
    difficulty: int | None = option(
        "d", parse=optional(whole(0, HASH_DIGITS)), help=DIFFICULTY
    )
    block: str = text(default=DEFAULTS["block"], help=BLOCK)


@dataclass(frozen=True)
class ReportOptions(JsonOptions):
    """The options of `report`."""

    run: str = text(positional=True, help=RUN)
    open: bool = flag(help="show it in the browser")


@dataclass(frozen=True)
class RunsOptions(JsonOptions):
    """The options of `runs`."""


@dataclass(frozen=True)
class LogsOptions(Options):
    """The options of `logs`."""

    example = "for example: fab logs --instance 3"
    run: str = text(positional=True, help=RUN)
    instance: int | None = option(
        parse=optional(whole(0, 10**6)), help="only that of instance i"
    )
    follow: bool = flag(help="print them as they grow, until the run ends: 16 at most")
    events: bool = flag(
        help="print the run's events instead; with --follow: as they come"
    )
    json: bool = flag(
        help="logs: one JSON object; with --follow or --events: one a line"
    )


@dataclass(frozen=True)
class ExportOptions(Options):
    """The options of `export`."""

    run: str = text(positional=True, help=RUN)
    format: str = option(
        parse=choice("json", "csv", hint=EXPORT),
        default="json",
        help="json (result, events, phases) or csv (a row for each instance)",
    )
    output: str = text(help="the file to write; default: stdout")
    json: bool = flag(help="the same as --format json")


# --- the local cloud


@dataclass(frozen=True)
class FaultOptions(Options):
    """What describes a fault; the local cloud itself checks it."""

    kind: str = text(
        positional=True, help="fault of a host: never-boots, kill, freeze, cut ..."
    )
    code: str = text(help="fault: the error code of the answer")
    http: str = text(help="fault: its HTTP status")
    times: str = text(help="fault: how many calls it strikes, or forever (1)")
    skip: str = text(help="fault: how many calls pass first (0)")
    delay: str = text(help="fault: seconds before the answer")
    reset: bool = flag(help="fault: reset the connection instead of answering")
    lost_reply: bool = flag(help="fault: do what was asked, then reset the connection")
    at_most: str = text(help="fault of RunInstances: launch no more than that")
    seconds: str = text(help="fault of a host: for how long, or when")


@dataclass(frozen=True)
class LocalTargetOptions(Options):
    """The words after `local`; `FaultOptions` has the last one."""

    action: str = option(
        parse=choice("up", "down", "status", "fault"),
        positional=True,
        title="fab local",
        help="up, down, status or fault",
    )
    what: str = text(
        positional=True,
        help="fault: an API action (RunInstances), an instance id, or the place "
        "of one in the next launch; none: list the faults",
    )


@dataclass(frozen=True)
class LocalOptions(JsonOptions, FaultOptions, LocalTargetOptions):
    """The options of `local`."""

    clear: bool = flag(help="fault: forget all")
    hosts: str = text(
        help="up: what instances are: process, or vm for real machines (qemu)"
    )
    weather: str = text(
        help="up: AWS's habits: aws, aws:SEED, aws:SEED,-HABIT or "
        "aws:SEED,only=HABIT+HABIT (calm)"
    )
    account_kind: str = text(
        help="up: default, no-public-ip, no-default-vpc, imdsv2-enforced, free-plan, "
        "lab or low-quota"
    )
    policy: str = text(help="up: a file with an IAM policy: what the caller may do")
