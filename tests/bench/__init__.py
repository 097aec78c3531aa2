"""Benchmarks: how fast and how small, side by side with what one would do otherwise. ``python -m tests.bench``."""

import os

# As the shards have it: numpy's own threads wait busily, and would be measured instead of a pool in this process.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
