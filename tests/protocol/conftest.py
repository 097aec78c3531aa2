"""Both servers, started once a module: ``chroma run``, and ``vectorpool serve`` on a directory as its object store.

With ``PROTOCOL_AGAINST=reference`` a second ``chroma run`` stands in for vectorpool: whatever still differs then is a
mistake of the tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.protocol.sides import Server, Sides
from tests.support.chroma_server import ChromaServer
from tests.support.service import Service

EXACTLY_AS_CHROMA = {"VECTORPOOL_AUTO_CREATE": "false", "VECTORPOOL_ALLOW_RESET": "true"}


STANDS_IN = os.environ.get("PROTOCOL_AGAINST") == "reference"
only_ours = pytest.mark.skipif(STANDS_IN, reason="the reference stands in for vectorpool")


def start_ours(root: Path, env: dict[str, str]) -> Server:
    """Start vectorpool with one shard, or its stand-in."""
    if STANDS_IN:
        return ChromaServer(root, allow_reset=env.get("VECTORPOOL_ALLOW_RESET") == "true").start()
    return Service(root, "--shards", "1", env=env).start()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """``chroma run``, which may be reset."""
    server = ChromaServer(tmp_path_factory.mktemp("reference"), allow_reset=True).start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vectorpool with the settings under which it is exactly as Chroma's server."""
    server = start_ours(tmp_path_factory.mktemp("ours"), EXACTLY_AS_CHROMA)
    yield server
    server.close()


@pytest.fixture(scope="module")
def sides(reference: ChromaServer, ours: Server) -> Sides:
    """Both."""
    return Sides(reference, ours)
