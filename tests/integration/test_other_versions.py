"""Directories of older versions of Chroma, made by those versions, are adopted, read, searched, written and kept.

Each version runs in an environment of its own, which uv makes; ``uv run pytest -m versions``. Before and after are
compared with what the old version itself said of its directory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.instances import USER, Instance, upsert
from vectorpool.commands import CountRecords, DeleteRecords, GetRecords, ListCollections, QueryRecords, Vectors
from vectorpool.commitlog.log import CommitLog
from vectorpool.engine.engine import Engine, create_empty
from vectorpool.engine.records import EngineOptions
from vectorpool.engine.salvage import Loss, salvage
from vectorpool.engine.version import TESTED_FINGERPRINT, TESTED_MIGRATIONS
from vectorpool.names import vectorstore_prefix
from vectorpool.objects.memory import MemoryBucket
from vectorpool.vectorstore.compatibility import ENGINE

pytestmark = [pytest.mark.versions, pytest.mark.timeout(600)]

# The migrations that a directory of each version has, by group.
VERSIONS = {
    "0.4.24": {"embeddings_queue": 1, "metadb": 3, "sysdb": 4},
    "0.5.23": {"embeddings_queue": 2, "metadb": 4, "sysdb": 9},
    "0.6.3": {"embeddings_queue": 2, "metadb": 4, "sysdb": 9},
    "1.0.0": {"embeddings_queue": 2, "metadb": 5, "sysdb": 9},
    "1.3.7": {"embeddings_queue": 2, "metadb": 5, "sysdb": 10},
}
# Runs where nothing of this project is installed.
MAKER = Path(__file__).parents[1] / "support" / "older_chroma.py"
ALL = ("documents", "metadatas", "embeddings")


def make(version: str, directory: Path) -> dict[str, Any]:
    """Make a directory with a version of Chroma; return what that version says is in it."""
    uv = shutil.which("uv")
    assert uv is not None, "uv makes the environments of older versions"
    environment = ["--isolated", "--no-project", "--python", f"{sys.version_info.major}.{sys.version_info.minor}"]
    # Versions before 0.5.4 do not know numpy 2. With -P, no module beside the script hides one of the standard library.
    packages = ["--with", f"chromadb=={version}", "--with", "numpy<2"]
    made = subprocess.run(
        [uv, "run", "-q", *environment, *packages, "python", "-P", str(MAKER), str(directory)],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert made.returncode == 0, made.stderr[-4000:]
    told: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    assert told["version"] == version
    return told


async def records(instance: Instance, collection: str) -> dict[str, Any]:
    """Return a collection as the old version tells of its own."""
    page = await instance.do(GetRecords(collection=collection, include=ALL))
    return {r["id"]: [r.get("document"), r.get("metadata") or None, r["embedding"]] for r in page["records"]}


def require_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Require the same ids, documents and metadata, and embeddings as near as float32 text is."""
    assert set(got) == set(expected)
    for record_id, (document, metadata, vector) in expected.items():
        assert got[record_id][:2] == [document, metadata or None], record_id
        np.testing.assert_allclose(got[record_id][2], vector, rtol=1e-5, atol=1e-6)


async def require_found(instance: Instance, told: dict[str, Any]) -> None:
    """Require the nearest records that the old version found, at the distances that it told."""
    questions = np.array(told["questions"], "<f4")
    vectors = Vectors(dimension=questions.shape[1], data=questions.tobytes())
    for name, expected in told["queries"].items():
        found = await instance.do(QueryRecords(collection=name, vectors=vectors, n_results=2))
        for matches, rows in zip(found["results"], expected, strict=True):
            assert [match["id"] for match in matches] == [record_id for record_id, _ in rows]
            np.testing.assert_allclose(
                [match["distance"] for match in matches], [distance for _, distance in rows], rtol=1e-4, atol=1e-5
            )


async def put(bucket: MemoryBucket, directory: Path) -> None:
    """Put a directory where an older tool would have left it in the bucket."""
    for file in directory.rglob("*"):
        if file.is_file():
            await bucket.put(f"{vectorstore_prefix(USER)}{file.relative_to(directory)}", file.read_bytes())


@pytest.mark.parametrize("way", ["import", "bucket"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_directory_of_an_older_version_is_taken(version: str, way: str, tmp_path: Path) -> None:
    """It is stamped, read and searched as it was, migrated in a commit of its own, written to, and kept."""
    told = make(version, tmp_path / "old")
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        if way == "import":
            await CommitLog(bucket, USER, settings=instance.settings, engine=ENGINE).adopt(tmp_path / "old")
        else:
            await put(bucket, tmp_path / "old")
        for name, expected in told["collections"].items():
            require_same(await records(instance, name), expected)
        await require_found(instance, told)
        (adopted,) = await instance.history()
        assert adopted.stamp is not None
        assert (adopted.stamp.version, adopted.stamp.migrations) == ("", VERSIONS[version])

        await instance.do(upsert("new", collection="small", vectors=Vectors(dimension=16, data=bytes(64))))
        await instance.do(DeleteRecords(collection="notes", ids=["r7"]))
        written = {name: await records(instance, name) for name in told["collections"]}
    expected = told["collections"]["notes"]
    del expected["r7"]
    require_same(written["notes"], expected)
    assert set(written["small"]) == {"a", "b", "new"}

    async with Instance(tmp_path, bucket, name="restarted") as instance:
        assert {name: await records(instance, name) for name in written} == written
        assert (await instance.do(CountRecords(collection="empty")))["count"] == 0
        names = [c["name"] for c in (await instance.do(ListCollections()))["collections"]]
        assert sorted(names) == ["empty", "notes", "small"]
        del told["queries"]["small"]
        await require_found(instance, told)
        commits = await instance.history()
        assert [entry.summary.migrated for entry in reversed(commits)] == [False, True, False, False]
        assert {(s.fingerprint, tuple(sorted(s.migrations.items()))) for s in (e.stamp for e in commits[:3]) if s} == {
            (TESTED_FINGERPRINT, tuple(sorted(TESTED_MIGRATIONS.items())))
        }


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_salvaged_of_an_older_version_is_what_was_there(version: str, tmp_path: Path) -> None:
    """Read without Chroma, each record has the vector that the version told, or is listed as lost; none is both."""
    told = make(version, tmp_path / "old")["collections"]
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    create_empty(fresh)
    lost: list[Loss] = []

    def note(losses: list[Loss]) -> int:
        lost.extend(losses)
        return len(losses)

    report = salvage(tmp_path / "old", fresh, 0, note)
    assert (report.salvaged + report.lost, report.lost) == (sum(map(len, told.values())), len(lost))
    assert report.lost <= 12, [loss.record_id for loss in lost]
    engine = Engine(fresh, EngineOptions(fast_reads=False, fast_writes=False))
    try:
        for info in engine.catalogue.collections("default_database"):
            expected = told.get(info.name, {})
            rows = engine.records.get(info.id, "default_database", include=["embeddings"])
            gone = {loss.record_id for loss in lost if loss.collection == info.name}
            assert set(rows.ids) == set(expected) - gone
            for record_id, vector in zip(rows.ids, rows.embeddings or (), strict=True):
                np.testing.assert_allclose(vector, expected[record_id][2], rtol=1e-5, atol=1e-5)
    finally:
        engine.close()
