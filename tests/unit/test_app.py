"""The application as the front process loads it."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import vectorpool.app
from vectorpool.settings import Settings
vectorpool.app.create_app(Settings())
costly = {"pydantic", "chromadb", "boto3", "numpy", "jwt", "cryptography", "structlog", "prometheus_client"}
print(sorted({name.partition(".")[0] for name in sys.modules} & costly))
print([name for name in sys.modules if name.startswith("opentelemetry.sdk")])
"""


def test_the_front_loads_no_library_that_it_does_not_use() -> None:
    """Pydantic is installed beside us, and would cost every start a tenth of a second or more; chromadb still more."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True)
    assert "pydantic" not in done.stdout and "chromadb" not in done.stdout
    assert not [name for name in ("structlog", "prometheus_client", "opentelemetry.sdk") if name in done.stdout]
    assert "jwt" not in done.stdout and "cryptography" not in done.stdout
