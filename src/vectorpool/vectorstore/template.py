"""The files of an empty vectorstore, which Chroma makes once for all new users of a shard."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from vectorpool.engine.admission import learn_tables
from vectorpool.engine.engine import create_empty
from vectorpool.engine.version import learn_migrations


class Template:
    """An empty Chroma directory, made once. A new user's store is a copy of it, which saves 45 ms of migrations."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._making = threading.Lock()

    def _make(self) -> None:
        # The first users of an instance arrive together: one thread makes the directory, the others wait.
        with self._making:
            if not self._directory.exists():
                making = self._directory.with_name(self._directory.name + ".making")
                shutil.rmtree(making, ignore_errors=True)
                making.mkdir(parents=True)
                create_empty(making)
                making.rename(self._directory)

    def learn(self) -> None:
        """Store which migrations the installed Chroma applies to a new directory."""
        self._make()
        learn_migrations(self._directory)
        learn_tables(self._directory)

    def copy_to(self, directory: Path) -> None:
        """Fill an empty directory. Several threads may call this, each for another directory."""
        self._make()
        shutil.copytree(self._directory, directory, dirs_exist_ok=True)
