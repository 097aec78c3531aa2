"""Whether this installation can run jobs: the slim image is without the packages that a worker imports."""

from __future__ import annotations

import importlib.util
from typing import Final

# Its database's packages come and go with it.
PACKAGE: Final = "dbos"
NOT_INSTALLED: Final = (
    f"This installation has no jobs: the package {PACKAGE} is not installed. Use the full image, or `pip install "
    "vectorpool`, which brings it. `vectorpool ingest` syncs a folder without a job."
)


def are_jobs_installed() -> bool:
    """Return whether a worker could start, without importing what it imports."""
    return importlib.util.find_spec(PACKAGE) is not None
