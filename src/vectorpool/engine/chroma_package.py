"""Import of Chroma's package without running it.

``import chromadb`` takes 1.7 s and 66 MB; the bindings alone take 0.06 s. The bindings import ``chromadb.errors`` when
they first raise, which would run the package's ``__init__`` in the middle of a request. ``import_lean`` puts a bare
package in its place, so that submodules load and nothing else does.
"""

from __future__ import annotations

import importlib.util
import sys
import types


def import_lean() -> None:
    """Make ``chromadb`` an importable package without running its ``__init__``; for shard processes only."""
    if "chromadb" in sys.modules:
        return
    spec = importlib.util.find_spec("chromadb")
    assert spec is not None and spec.submodule_search_locations is not None
    package = types.ModuleType("chromadb")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["chromadb"] = package
