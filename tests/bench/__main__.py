"""All benchmarks, one after the other: `python -m tests.bench [--quick]`."""

import os

from tests.bench import bench_live, bench_pow, bench_start

busy, cores = os.getloadavg()[0], os.cpu_count()
print(f"before we begin: load {busy:.1f} on {cores} cores (timings want 0)")
bench_pow.main()
bench_start.main()
bench_live.main()
