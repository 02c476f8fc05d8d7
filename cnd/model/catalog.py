"""Some sensible instance types: what they cost, and how fast they should be.

One rule: a shipped table with its date, and every number is an estimate: prices change
and differ by region, and most rates were not measured on EC2.  What is not known is
None.  Measured rates (`cnd.planning.rate_history`) and looked-up prices
(`cnd.planning.prices`) take precedence over this table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """How fast one instance searches, and how that is known."""

    nonces_per_second: float
    source: str  # "measured in 3 earlier runs", "estimate: ..."


@dataclass(frozen=True)
class Price:
    """What one instance costs while it searches, disk and address included."""

    usd_per_hour: float
    source: str


@dataclass(frozen=True)
class Offer:
    """An instance type of the table."""

    type: str
    architecture: str  # EC2's name: "x86_64" or "arm64"
    vcpus: int
    rate: Rate | None
    price: Price


PRICED = "2026-01-19"
PRICED_REGION = "us-east-1"
# On-demand, Linux, USD an hour, as generated on that day from AWS's price list for
# the Karpenter project: https://github.com/aws/karpenter-provider-aws
# (pkg/providers/pricing/zz_generated.pricing_aws.go).
ON_DEMAND = {
    "c4.xlarge": 0.199,
    "c5.large": 0.085,
    "c5.xlarge": 0.17,
    "c5a.large": 0.077,
    "c6a.large": 0.0765,
    "c6a.xlarge": 0.153,
    "c6a.4xlarge": 0.612,
    "c6g.medium": 0.034,
    "c6g.large": 0.068,
    "c6i.large": 0.085,
    "c6i.xlarge": 0.17,
    "c7a.medium": 0.05132,
    "c7a.large": 0.10264,
    "c7a.xlarge": 0.20528,
    "c7a.4xlarge": 0.82112,
    "c7g.medium": 0.0363,
    "c7g.large": 0.0725,
    "c7i.large": 0.08925,
    "c8a.medium": 0.05389,
    "c8a.large": 0.10777,
    "c8g.medium": 0.03988,
    "c8g.large": 0.07976,
    "g4dn.xlarge": 0.526,
    "g4dn.12xlarge": 3.912,
    "g5.xlarge": 1.006,
    "g6.xlarge": 0.8048,
    "g6.12xlarge": 4.6016,
    "g6e.xlarge": 1.861,
    "p5.4xlarge": 6.88,
    "t2.micro": 0.0116,
    "t3.micro": 0.0104,
    "t3a.micro": 0.0094,
    "t4g.micro": 0.0084,
}
# USD an hour billed besides the instance: a public IPv4 address at $0.005 an hour, and
# gp3 at $0.08 a month for each GB.  Sources: https://aws.amazon.com/vpc/pricing/,
# https://aws.amazon.com/ebs/pricing/ (us-east-1).
ADDRESS, GIGABYTE = 0.005, 0.08 / 730
# GB of an image's disk; of one with a driver for GPUs that is an estimate.
DISK, GPU_DISK = 8, 75
EXTRAS = ADDRESS + DISK * GIGABYTE
# What a GB costs more in the most expensive region, sa-east-1, at $0.152 a month.  The
# address costs the same everywhere.
GIGABYTE_ELSEWHERE = (0.152 - 0.08) / 730

# T instances are launched in unlimited mode: a search uses every vCPU in full, and use
# above the baseline is billed by the vCPU-hour.
# Source: https://aws.amazon.com/ec2/pricing/on-demand/, "T2/T3/T4g unlimited mode".
SURPLUS = {"t2": 0.05, "t3": 0.05, "t3a": 0.05, "t4g": 0.04}  # USD per vCPU-hour
# Their vCPUs by size, and the baseline of each vCPU: of a t2, and of all others.
# Source:
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-credits-baseline-concepts.html
BURSTABLE = {
    "nano": (2, 0.05),
    "micro": (2, 0.10),
    "small": (2, 0.20),
    "medium": (2, 0.20),
    "large": (2, 0.30),
    "xlarge": (4, 0.40),
    "2xlarge": (8, 0.40),
}
BURSTABLE_T2 = {
    "nano": (1, 0.05),
    "micro": (1, 0.10),
    "small": (1, 0.20),
    "medium": (2, 0.20),
    "large": (2, 0.30),
    "xlarge": (4, 0.225),
    "2xlarge": (8, 0.17),
}

# Of all other families in the table.
VCPUS = {"medium": 1, "large": 2, "xlarge": 4, "4xlarge": 16, "12xlarge": 48}

# Cycles a nonce on one vCPU, by kernel, as measured on a Zen 4 core of 3.6 GHz
# (docs/kernel.md).  Where a vCPU is one of two threads of a core and the other thread
# is busy, SHA-NI keeps three fifths of its rate (15 of 25 M/s, measured there), and
# vector kernels keep a half.
ALONE = 140.0  # shani
SHANI, AVX512, AVX2 = ALONE / 0.6, 2 * 171.0, 2 * 356.0
ZEN5 = 74.0  # avx512 on a Zen 5 core, which has four vector ports of 512 bits


@dataclass(frozen=True)
class Processor:
    """The processor of a family of instances; its clock as AWS states it."""

    name: str
    architecture: str
    ghz: float
    cycles: float | None  # a nonce and vCPU; None: no similar processor was measured
    kernel: str


# Source of processors and clocks: https://aws.amazon.com/ec2/instance-types/
PROCESSORS = {
    "c4": Processor("Haswell", "x86_64", 2.9, AVX2, "avx2"),
    "c5": Processor("Cascade Lake", "x86_64", 3.4, AVX512, "avx512"),
    "c5a": Processor("Zen 2", "x86_64", 3.3, SHANI, "shani"),
    "c6a": Processor("Zen 3", "x86_64", 3.6, SHANI, "shani"),
    "c6g": Processor("Graviton2", "arm64", 2.5, None, "armv8"),
    "c6i": Processor("Ice Lake", "x86_64", 3.5, AVX512, "avx512"),
    "c7a": Processor("Zen 4, a core each", "x86_64", 3.7, ALONE, "shani"),
    "c7g": Processor("Graviton3", "arm64", 2.6, None, "armv8"),
    "c7i": Processor("Sapphire Rapids", "x86_64", 3.2, AVX512, "avx512"),
    "c8a": Processor("Zen 5, a core each", "x86_64", 4.5, ZEN5, "avx512"),
    "c8g": Processor("Graviton4", "arm64", 2.8, None, "armv8"),
    "t2": Processor("Haswell", "x86_64", 2.4, AVX2, "avx2"),
    "t3": Processor("Skylake", "x86_64", 3.1, AVX512, "avx512"),
    "t3a": Processor("Zen", "x86_64", 2.5, SHANI, "shani"),
    "t4g": Processor("Graviton2", "arm64", 2.5, None, "armv8"),
}


@dataclass(frozen=True)
class Gpu:
    """The GPU of a family of instances."""

    name: str
    multiprocessors: int  # each of 64 lanes for 32-bit integers
    ghz: float  # half-way from its base to its boost clock: its power is limited


# Sources: https://aws.amazon.com/ec2/instance-types/ (accelerated computing), and
# NVIDIA's data sheets of the cards for multiprocessors and clocks.  The A10G has none:
# programs on it report 80 multiprocessors (CUDA's device properties).
GPUS = {
    "g4dn": Gpu("T4", 40, 1.09),
    "g5": Gpu("A10G", 80, 1.51),
    "g6": Gpu("L4", 58, 1.42),
    "g6e": Gpu("L40S", 142, 1.81),
    "p5": Gpu("H100", 132, 1.78),
}
GPUS_OF_SIZE = {"12xlarge": 4}  # of the sizes in the table; else one
# Lane cycles a nonce: 1080 for SHA-256 by hashcat's mode 1400, as published for a card
# with 30 multiprocessors at 1.86 GHz that reaches 3306 M/s, times three compressions.
# Of that, golden.cl is expected to reach four fifths (docs/kernel.md).
LANE_CYCLES, LANES, SHARE = 3 * 1080.0, 64, 0.8
# Families with GPUs: g4dn, g6e, gr6, p5 ...
WITH_GPU = re.compile(r"(g|gr|p)\d")
# Of these, the ones whose GPUs are not supported by NVIDIA's open kernel modules, which
# the image "gpu" has: AMD's, and NVIDIA's before Turing.
# https://github.com/NVIDIA/open-gpu-kernel-modules, "Compatible GPUs"
WITHOUT_DRIVER = re.compile(r"(g2|g3s?|g4ad|p2|p3(dn)?)\.")


def has_gpu(instance_type: str) -> bool:
    """Whether instances of a type have GPUs, as its name says."""
    return WITH_GPU.match(instance_type) is not None


def has_driver(instance_type: str) -> bool:
    """Whether the image "gpu" has a driver for the GPUs of a type."""
    return has_gpu(instance_type) and not WITHOUT_DRIVER.match(instance_type)


def image_for(instance_type: str) -> str:
    """Return the name of the usual image for a type: one with a driver for its GPU."""
    return "gpu" if has_driver(instance_type) else "ubuntu"


def image_of_all(image: str, types: Iterable[str]) -> str:
    """Return the image that "auto" means for some types; "auto" if it is not the same.

    Any other image stays what it is.
    """
    meant = {image_for(name) for name in types}
    return meant.pop() if image == "auto" and len(meant) == 1 else image


def _offer(name: str) -> Offer:
    family, _, size = name.partition(".")
    price = with_extras(name, ON_DEMAND[name], f"table of {PRICED}, {PRICED_REGION}")
    vcpus = _burst(name)[0] or VCPUS[size]
    if gpu := GPUS.get(family):
        rate = _gpu_rate(gpu, GPUS_OF_SIZE.get(size, 1))
        return Offer(name, "x86_64", vcpus, rate, price)
    processor = PROCESSORS[family]
    return Offer(
        type=name,
        architecture=processor.architecture,
        vcpus=vcpus,
        rate=_rate(processor, vcpus),
        price=price,
    )


def is_burstable(name: str) -> bool:
    """Return whether an instance type earns CPU credits: t2, t3 and so on."""
    return re.match(r"t\d", name) is not None


def _burst(name: str) -> tuple[int, float]:
    """Return the vCPUs of a T instance and the baseline of each; zeros for others."""
    family, _, size = name.partition(".")
    if family not in SURPLUS:
        return 0, 0.0
    return (BURSTABLE_T2 if family == "t2" else BURSTABLE).get(size, (0, 0.0))


def _rate(processor: Processor, vcpus: int) -> Rate | None:
    if processor.cycles is None:
        return None
    how = (
        f"estimate: {processor.kernel} on {processor.name} at {processor.ghz:g} GHz, "
        f"{processor.cycles:.0f} cycles a nonce and vCPU"
    )
    return Rate(vcpus * processor.ghz * 1e9 / processor.cycles, how)


def _gpu_rate(gpu: Gpu, count: int) -> Rate:
    """Return the rate of an instance's GPUs; what its cores add is within the error."""
    each = SHARE * gpu.multiprocessors * LANES * gpu.ghz * 1e9 / LANE_CYCLES
    how = (
        f"estimate: {count} x {gpu.name}, {gpu.multiprocessors} multiprocessors at "
        f"{gpu.ghz:g} GHz, {SHARE:.0%} of hashcat's rate by lane and clock"
    )
    return Rate(count * each, how)


def with_extras(name: str, usd_per_hour: float, source: str) -> Price:
    """Return the price of an instance with everything billed besides it."""
    vcpus, baseline = _burst(name)
    surplus = SURPLUS.get(name.partition(".")[0], 0.0) * vcpus * (1 - baseline)
    extras = ADDRESS + disk_of(name) * GIGABYTE
    return Price(usd_per_hour + surplus + extras, source)


def disk_of(name: str) -> int:
    """Return how many GB the disk of an instance has with the usual image."""
    return GPU_DISK if image_for(name) == "gpu" else DISK


OFFERS = {name: _offer(name) for name in ON_DEMAND}
