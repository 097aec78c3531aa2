"""Fixtures that every test may use: real object stores, started once a session. Lanes are in ``tests.support.lanes``.

The tests of a store that cannot run here are skipped, and the summary names the stores that ran.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.support import lanes, minio, moto, radosgw
from tests.support.milvus import MilvusServer
from tests.support.postgres import Postgres, postgres_server
from tests.support.store import S3Server
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.stores import open_bucket

STORES = ("memory", "directory", "moto", "radosgw", pytest.param("minio", marks=pytest.mark.containers))

_ran_on: dict[str, str] = {}


# This runs before pytest evaluates the marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lanes.sort_into_lanes(config, items)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return lanes.is_unneeded(collection_path, config.getoption("-m")) or None


@pytest.fixture(autouse=True)
def _network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Block the network in the quick lane."""
    with lanes.without_network() if request.node.get_closest_marker("quick") else nullcontext():
        yield


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the tests of one file; they are skipped where none is installed."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A real Milvus server for the tests of one file; they are skipped without the group that has it."""
    pytest.importorskip("milvus", reason="uv sync --group milvus-server")
    server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    yield server
    server.close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With pytest-xdist, tell the process that prints the summary on which stores this one ran."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["ran_on"] = _ran_on


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    _ran_on.update(getattr(node, "workeroutput", {}).get("ran_on", {}))


def pytest_terminal_summary(terminalreporter) -> None:
    if _ran_on:
        told = "; ".join(f"{name}: {how}" for name, how in _ran_on.items())
        terminalreporter.write_line(f"object stores: {told}")


def _skip(store: str, reason: str) -> None:
    _ran_on[store] = f"skipped, {reason}"
    pytest.skip(f"{store} does not run here: {reason}")


@pytest.fixture(scope="session")
def radosgw_server() -> Iterator[radosgw.Radosgw]:
    """A real S3, shared by the session. A test that kills or freezes one starts its own (``Radosgw.start``)."""
    if missing := radosgw.missing_programs():
        _skip("radosgw", f"not installed: {', '.join(missing)}")
    server = radosgw.Radosgw.start()
    _ran_on["radosgw"] = server.endpoint
    yield server
    server.close()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[moto.Moto]:
    """moto's S3, which runs on every machine."""
    server = moto.Moto.start()
    _ran_on["moto"] = server.endpoint
    yield server
    server.close()


@pytest.fixture(scope="session")
def minio_server() -> Iterator[minio.Minio]:
    """MinIO in a container, where Docker runs."""
    if reason := minio.docker_runs():
        _skip("minio", f"Docker does not answer ({reason})")
    try:
        server = minio.Minio.start()
    except Exception as error:
        _skip("minio", f"its container does not start ({str(error).splitlines()[0][:120]})")
    _ran_on["minio"] = server.endpoint
    yield server
    server.close()


@pytest.fixture(scope="session")
def _buckets() -> dict[str, str]:
    """The bucket that a session's tests share on each server; each test has a prefix of its own."""
    return {}


def s3_url(server: S3Server, buckets: dict[str, str]) -> str:
    """Return an s3:// URL of an empty prefix on a server."""
    if server.name not in buckets:
        buckets[server.name] = server.make_bucket()
    return f"s3://{buckets[server.name]}/{uuid.uuid4().hex}"


@pytest.fixture
def radosgw_url(radosgw_server: radosgw.Radosgw, _buckets: dict[str, str]) -> str:
    """An s3:// URL of an empty prefix on the session's radosgw."""
    return s3_url(radosgw_server, _buckets)


@pytest.fixture(params=STORES)
async def bucket(request: pytest.FixtureRequest, _buckets: dict[str, str]) -> AsyncIterator[Bucket]:
    """An empty bucket, on each store in turn."""
    store = request.param
    directory: Path | None = None
    opened: Bucket
    if store == "memory":
        opened = MemoryBucket()
        _ran_on[store] = "in this process"
    elif store == "directory":
        directory = Path(tempfile.mkdtemp(prefix="vectorpool-store-"))
        opened = DirectoryBucket(directory)
        _ran_on[store] = str(directory.parent)
    else:
        server: S3Server = request.getfixturevalue(f"{store}_server")
        opened = open_bucket(server.settings(s3_url(server, _buckets)))
    yield opened
    await opened.close()
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
