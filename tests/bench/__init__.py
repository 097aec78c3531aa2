"""Benchmarks: how fast and how small, side by side with what one would do otherwise. ``python -m tests.bench``."""
