"""The command that measures: kernels of this machine, fleets, instance types.

One rule: what it needs is loaded when it is called, as no other command needs it.
"""

from __future__ import annotations

from invoke.context import Context

from cnd.cli.options_bench import (
    BenchOptions,
    KernelBenchOptions,
    ScaleBenchOptions,
    ScalingBenchOptions,
    TypesBenchOptions,
)
from cnd.cli.task import task

BENCHES: dict[str, type[BenchOptions]] = {
    "kernel": KernelBenchOptions,
    "scale": ScaleBenchOptions,
    "scaling": ScalingBenchOptions,
    "types": TypesBenchOptions,
}


@task(BenchOptions, kinds=BENCHES)
def bench(c: Context, options: BenchOptions) -> None:
    """Measure: `fab bench kernel`, `fab bench scaling` ..."""
    from cnd.cli.measure import measure

    measure(options)
