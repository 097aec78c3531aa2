"""Benchmarks of speed and size, side by side with the alternatives. ``python -m tests.bench``."""

import os

# As in the shards: numpy's own threads spin while they wait, and would distort measurements in this process.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
