"""Which module opens which kind of target; a driver that is not installed is an error that names the extra."""

from __future__ import annotations

import importlib
from typing import Any, Final

from vectorpool.errors import InvalidTarget
from vectorpool.targets.records import Sink, Source
from vectorpool.targets.urls import Target

# The module of a kind, and the extra that brings its driver; None if every installation but the slim image has it.
_KINDS: Final = {
    "postgresql": ("postgresql", None),
    "parquet": ("parquet", "parquet"),
    "chroma": ("chroma_server", None),
    "qdrant": ("qdrant", "qdrant"),
    "lancedb": ("lancedb", "lancedb"),
    "milvus": ("milvus", "milvus"),
}


def open_sink(target: Target) -> Sink:
    """Open a target to write. Raises InvalidTarget, TargetRefused, TargetUnavailable."""
    sink: Sink = _module(target).open_sink(target)
    return sink


def open_source(target: Target, user_id: str) -> Source:
    """Open a target to read what it holds of a user. Raises as ``open_sink`` does, and UserNotFound."""
    source: Source = _module(target).open_source(target, user_id)
    return source


def _module(target: Target) -> Any:
    name, extra = _KINDS[target.kind]
    try:
        return importlib.import_module(f"vectorpool.targets.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("vectorpool"):
            raise
        # Without an extra it is a package of every installation, which the slim image leaves out.
        todo = "Use the full image." if extra is None else f"Install vectorpool[{extra}]."
        raise InvalidTarget(
            f"A target {target.parts.scheme or target.kind}:// needs the package {error.name}. {todo}"
        ) from None
