"""Milvus as a target, beyond what every kind of target does (``test_targets.py``): the real client, over folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.milvus import PASSWORD, USER, MilvusServer
from vectorpool.errors import NotExportable, TargetRefused, TargetUnavailable, UserNotFound
from vectorpool.targets import registry
from vectorpool.targets.records import Collection, Held, Records
from vectorpool.targets.urls import Target, parse

pytestmark = pytest.mark.milvus

NOTES = Collection("11111111-2222-3333-4444-555555555555", "avatar-7", "notes", {"a": 1e300, "n": -(2**63)}, 3)
IDS = ["it's", "back\\slash", 'quo"te', "line\nbreak", "nul\0", "ü %_", '"] or key != ""', "", "kept"]
MOST = 65_535


def _export(
    target: Target, user: str, ids: list[str], commit: int = 1, text: str = "the text", collection: Collection = NOTES
) -> None:
    texts = [f"{text} of {each}" for each in ids]
    vectors = np.arange(3 * len(ids), dtype=np.float32).reshape(len(ids), 3)
    _put(target, user, Records(ids, vectors, texts, [{"n": -0.0}] * len(ids), [None] * len(ids)), commit, collection)


def _put(target: Target, user: str, records: Records, commit: int = 1, collection: Collection = NOTES) -> None:
    sink = registry.open_sink(target)
    try:
        sink.state(user)
        sink.begin(user, commit, f"{commit:032x}")
        sink.put_collection(collection, Held(next_commit=commit))
        sink.put(collection, records, is_new=False)
        sink.note(collection, Held(commit, f"{commit:032x}", 5))
        sink.finish()
    finally:
        sink.close()


@pytest.fixture(params=["folder", "server"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """Return a folder, and a database of a server."""
    if request.param == "server":
        server: MilvusServer = request.getfixturevalue("milvus_server")
        return parse(server.database())
    return parse(f"milvus://{tmp_path}/milvus.db")


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return parse(f"milvus://{tmp_path}/milvus%20folder.db")


def test_odd_ids_are_stored_and_deleted_one_by_one(either: Target) -> None:
    """Ids are values and never part of an expression, and users with odd ids are apart."""
    users = ["../a user/with: everything'", "a_b", "a.b", "a_5Fb", "ü" * 64]
    for user in users:
        _export(either, user, IDS)
    sink = registry.open_sink(either)
    assert sink.state(users[0]) is not None
    assert sink.ids(NOTES) == set(IDS)
    for number, each in enumerate(IDS[:-1], 1):
        sink.delete(NOTES, [each])
        assert sink.count(NOTES) == len(IDS) - number, each
    sink.close()
    for user in users:
        source = registry.open_source(either, user)
        (batch,) = source.batches(source.collections()[0])
        found = dict(zip(batch.ids, batch.documents, strict=True))
        assert found == {each: f"the text of {each}" for each in (IDS[-1:] if user == users[0] else IDS)}
        assert repr(batch.metadatas[0]) == "{'n': -0.0}" and source.collections() == [NOTES]
        source.close()
    with pytest.raises(UserNotFound):
        registry.open_source(either, "another")


def test_what_is_longer_than_a_field_comes_back(either: Target) -> None:
    """An id, a document, a URI and metadata of more bytes than a field holds, and what just fits, in any script."""
    texts = ["x" * MOST, "x" * (MOST + 1), "ü" * MOST, "€" * 200_000, '"\\\n\0' * 40_000, "𝄞" * 16_384]
    metadatas = [{"k": text, "n": 2**63 - 1, "z": -0.0, "nan": float("inf")} for text in texts]
    whole = [(text, text, metadata, text) for text, metadata in zip(texts, metadatas, strict=True)]
    whole += [(f"d{number}", text, {"a": 1.0}, None) for number, text in enumerate(texts)]
    whole += [(f"m{number}", None, metadata, "") for number, metadata in enumerate(metadatas)]
    ids, documents, metas, uris = zip(*whole, strict=True)
    vectors = np.random.default_rng(1).normal(size=(len(ids), 3)).astype(np.float32)
    vectors[0], vectors[1] = (-0.0, 1e-40, 3.4e38), (0, 0, 0)
    collection = Collection(NOTES.id, "avatar-7", "notes", {"k": "ü" * MOST}, 3, {"hnsw": {"space": "cosine"}})
    _put(either, "42", Records(ids, vectors, documents, metas, uris), collection=collection)
    sink = registry.open_sink(either)
    sink.state("42")
    assert sink.ids(collection) == set(ids)
    sink.close()
    source = registry.open_source(either, "42")
    assert source.collections() == [collection]
    found = {}
    for batch in source.batches(collection):
        rows = zip(batch.ids, batch.vectors, batch.documents, batch.metadatas, batch.uris, strict=True)
        found |= {row[0]: (row[1].tobytes(), *row[2:]) for row in rows}
    source.close()
    assert repr(found) == repr(
        {
            each: (vectors[at].tobytes(), documents[at], metas[at], uris[at])
            for each, at in ((each, ids.index(each)) for each in found)
        }
    )
    assert found.keys() == set(ids)


def test_a_batch_goes_on_at_a_cursor(either: Target) -> None:
    """The order of records does not change, whatever the batches were."""
    _export(either, "42", [f"r{number}" for number in range(700)])
    source = registry.open_source(either, "42")
    ids = [each for batch in source.batches(NOTES) for each in batch.ids]
    assert sorted(ids) == sorted(f"r{number}" for number in range(700))
    for cursor in (1, 250, 699, 700):
        assert [each for batch in source.batches(NOTES, cursor) for each in batch.ids] == ids[cursor:]
    source.close()


def test_nothing_of_a_deleted_user_is_in_any_file(target: Target, tmp_path: Path) -> None:
    """Neither a record, nor the name of a collection; the commit of the deletion stays."""
    _export(target, "42", ["first"], text="a very secret text")
    _export(target, "42", ["first", "second"], 2, text="a later secret text")
    _export(target, "43", ["third"], text="of another")
    sink = registry.open_sink(target)
    sink.state("42")
    assert sink.forget("42", 3) == 2
    state = sink.state("42")
    assert state is not None and (state.commit, state.commit_hash, state.collections) == (3, "", {})
    sink.close()
    files = [path for path in (tmp_path / "milvus folder.db").rglob("*") if path.is_file()]
    left = [path.read_bytes() for path in files if "vectorpool_43" not in str(path)]
    assert left and not any(word in data for data in left for word in (b"secret", b"notes", b"second"))
    with pytest.raises(UserNotFound):
        registry.open_source(target, "42")
    source = registry.open_source(target, "43")
    assert [batch.ids for batch in source.batches(NOTES)] == [["third"]]
    source.close()


def test_what_others_made_is_refused_by_name(target: Target, tmp_path: Path) -> None:
    """A collection of the same name is left as it is, and so is a file in the folder's place."""
    from vectorpool.targets.milvus_connection import Connection, Field  # of an extra

    connection = Connection(target)
    fields = (Field("mine", "INT64", {"is_primary": True}), Field("vector", "FLOAT_VECTOR", {"dim": 2}))
    connection.create("vectorpool_42", fields, "L2")
    connection.close()
    sink = registry.open_sink(target)
    with pytest.raises(TargetRefused, match="that vectorpool did not make"):
        sink.state("42")
    sink.close()
    (tmp_path / "file.db").write_text("a file")
    with pytest.raises(TargetRefused, match="refuses"):
        registry.open_sink(parse(f"milvus://{tmp_path}/file.db"))
    with pytest.raises(UserNotFound):
        registry.open_source(parse(f"milvus://{tmp_path}/nowhere.db"), "42")
    assert not (tmp_path / "nowhere.db").exists()
    with pytest.raises(NotExportable, match="avatar-7/wide has vectors of 40000 numbers"):
        _export(target, "43", ["r"], collection=Collection(NOTES.id, "avatar-7", "wide", None, 40_000))


def test_a_folder_has_one_opener_at_a_time(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another waits within a bound, and is told then."""
    from vectorpool.targets import milvus_connection

    monkeypatch.setattr(milvus_connection, "_WAIT_S", 0.3)
    first = registry.open_sink(target)
    with pytest.raises(TargetUnavailable, match="open elsewhere"):
        registry.open_sink(target)
    first.close()
    registry.open_sink(target).close()


def test_a_process_that_is_killed_leaves_what_it_noted(target: Target) -> None:
    """The next export finds the cursor and all rows below it, and gives the folder to nobody who is dead."""
    program = f"""
import sys, time
from tests.integration.test_milvus_target import *
sink = registry.open_sink(parse({target.url!r}))
sink.state("42")
sink.begin("42", 1, "a")
sink.put_collection(NOTES, Held(next_commit=1))
vectors = np.ones((5, 3), np.float32)
ids = list("abcde")
sink.put(NOTES, Records(ids, vectors, ids, [None] * 5, [None] * 5), is_new=True)
sink.note(NOTES, Held(next_commit=1, cursor=5))
print("noted", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "noted\n"
        process.kill()
    sink = registry.open_sink(target)
    state = sink.state("42")
    assert state is not None and state.commit == 0 and state.collections[NOTES.id].cursor == 5
    assert sink.ids(NOTES) == set("abcde")
    sink.close()
    _export(target, "42", ["a", "f"], 2)
    source = registry.open_source(target, "42")
    assert sorted(each for batch in source.batches(NOTES) for each in batch.ids) == list("abcdef")
    source.close()


def test_a_server_that_does_not_answer_is_told_within_a_bound(
    milvus_server: MilvusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two calls of an export; what was written before is there when the server answers again."""
    from vectorpool.targets import milvus_connection

    target = parse(milvus_server.database())
    _export(target, "42", ["a"])
    sink = registry.open_sink(target)
    assert sink.state("42") is not None
    with monkeypatch.context() as patch, milvus_server.paused():
        patch.setattr(milvus_connection, "_CALL_S", 1.0)
        with pytest.raises(TargetUnavailable, match="fails"):
            sink.ids(NOTES)
    assert sink.ids(NOTES) == {"a"}
    sink.close()


def test_a_wrong_password_and_a_database_that_is_not_there_are_refused(
    milvus_server: MilvusServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the server's words, and no output has the password."""
    url = milvus_server.database()
    for bad in (url.replace(f":{PASSWORD}@", ":s3cretword@"), url.replace(f"{USER}:{PASSWORD}@", ""), url + "x"):
        with pytest.raises(TargetRefused, match="refuses") as raised:
            registry.open_sink(parse(bad)).state("42")
        assert not any(word in raised.value.detail + repr(parse(bad)) for word in ("s3cretword", PASSWORD + "@"))
    assert capfd.readouterr() == ("", "")


def test_errors_have_no_password(capfd: pytest.CaptureFixture[str]) -> None:
    """A server that is away is an error of one sentence, which the client's log does not repeat."""
    for url in ("milvus+http://root:s3cretword@127.0.0.1:1/d", "milvus+https://:s3cretword@127.0.0.1:1"):
        with pytest.raises(TargetUnavailable, match=r"127\.0\.0\.1:1") as raised:
            registry.open_sink(parse(url))
        assert "s3cretword" not in raised.value.detail + repr(parse(url))
    assert capfd.readouterr() == ("", "")


def test_the_client_reads_no_file_of_settings(tmp_path: Path) -> None:
    """A file .env near the client's package or the working directory does not reach this process's environment."""
    (tmp_path / ".env").write_text("FROM_A_FILE=1\n")
    program = (
        "import os; before = dict(os.environ); import vectorpool.targets.milvus; "
        "assert dict(os.environ) == before, set(os.environ) ^ set(before)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=60)


def test_a_collection_that_a_server_refuses_is_named(
    milvus_server: MilvusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the server's words: another one may have a smaller bound than this one has."""
    from vectorpool.targets import milvus

    monkeypatch.setattr(milvus, "_MOST_DIMENSION", 100_000)
    wide = Collection(NOTES.id, "avatar-7", "wide", None, 40_000)
    with pytest.raises((TargetRefused, TargetUnavailable), match=r"(?i)dimension.*This was avatar-7/wide"):
        _put(parse(milvus_server.database()), "42", Records([], np.empty((0, 40_000)), [], [], []), collection=wide)
