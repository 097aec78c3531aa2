"""Runs the tests that compare this service with Chroma, on the Chroma that is installed, which may be a later one.

``uv pip install --upgrade chromadb && uv run --no-sync python -m tests.support.newest_chroma [PYTEST ARGUMENTS]``; then
``uv sync`` to go back. Each failure shows what an upgrade must change: the schema first, then the fast paths, which
read and write Chroma's tables, then the answers on Chroma's own protocol.
"""

from __future__ import annotations

import sys

import pytest

from vectorpool.engine.version import TESTED_VERSION, installed_version

DIFFERENTIAL = (
    "tests/integration/test_engine_version.py",
    "tests/integration/test_client.py",
    "tests/integration/test_fast_reads.py",
    "tests/integration/test_fast_writes.py",
    "tests/integration/test_salvage.py",
    "tests/integration/test_upgrade.py",
    "tests/protocol",
)


def main(arguments: list[str]) -> int:
    """Print the version that runs, and run the tests; return pytest's exit code."""
    print(f"chromadb {installed_version()} is installed; this release is tested with {TESTED_VERSION}", flush=True)
    return int(pytest.main([*DIFFERENTIAL, *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
