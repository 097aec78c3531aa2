"""Make the handles without ``await`` from those for asyncio: ``python -m tests.support.sync_handles --write``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parents[2] / "src" / "vectorpool" / "instance"
SOURCE: Final = PACKAGE / "async_handles.py"
TARGET: Final = PACKAGE / "handles.py"

_DOCSTRING: Final = '''"""The handles: a pool, its users, their avatars and collections.

Made from ``async_handles.py`` by ``python -m tests.support.sync_handles --write``; change that module, not this one.
A handle is a name and nothing else: it is made without a call, and what it names need not exist.
"""
'''

# In this order.
_CHANGES: Final = (
    (r'^""".*?"""\n', _DOCSTRING),
    (r"import asyncio\n", ""),
    (r"await asyncio\.wrap_future\((.*)\)\n", r"\1.result()\n"),
    (r"await asyncio\.to_thread\((.*)\)\n", r"\1()\n"),
    (r"chromadb\.api\.async_client import AsyncClient", "chromadb.api.client import Client"),
    (r"open_async_client", "open_client"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"async def", "def"),
    (r"\(await ([^\n]*)\)\.(\w+)$", r"\1.\2"),
    (r"await ", ""),
    (r"Async(\w+)", r"\1"),
)


def made() -> str:
    """Return the text of the module."""
    text = SOURCE.read_text()
    for number, (pattern, replacement) in enumerate(_CHANGES):
        flags = re.DOTALL if number == 0 else re.MULTILINE
        text = re.sub(pattern, replacement, text, flags=flags)
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        TARGET.write_text(made())
    else:
        sys.stdout.write(made())
