"""All benchmarks, one after the other: `python -m tests.bench [--quick]`."""

from tests.bench import bench_pow, bench_start

bench_pow.main()
bench_start.main()
