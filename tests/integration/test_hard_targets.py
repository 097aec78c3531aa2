# The fixtures of another module are parameters here.
# ruff: noqa: F811
"""Targets under hard values and faults: NaN, odd ids, wrong passwords, servers that are slow, full or away."""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.integration.test_targets import (  # noqa: F401
    Kind,
    Store,
    assert_same,
    chroma,
    database,
    is_rounded,
    kind,
    read,
    store,
)
from tests.support.postgres import Postgres
from vectorpool.errors import NotExportable, TargetRefused, TargetUnavailable, UserNotFound
from vectorpool.targets import chroma_server, postgresql, qdrant, registry
from vectorpool.targets.directory import DirectoryWriter
from vectorpool.targets.records import Collection, Held, Records
from vectorpool.targets.urls import parse

SECRET = "s3cret-p@ss/word"
QUOTED = "s3cret-p%40ss%2Fword"
IDS = [
    "a\nb",
    "'; DROP TABLE records; --",
    '"q"',
    "\\N",
    "\\x",
    "../..",
    "%00",
    "日本語",
    "🙂",
    " ",
    "a" * 500,
    "1e5",
    "null",
]
METADATA: list[dict[str, Any] | None] = [
    {"list": [2**63 - 1, -(2**63)], "a.b.c": "nested"},
    {"texts": ["", "ü", "'\"\\"], "flags": [True, False], "reals": [0.1, -0.0, 5e-324, 1.7976931348623157e308]},
    {"n": 9007199254740993, "whole": 4.0, "big": 1e15, "true": True, "one": 1},
    None,
]


def _hard(directory: Path, seed: int) -> None:
    directory.mkdir()
    writer = DirectoryWriter(directory)
    for space, dimension in (("l2", 5), ("cosine", 16), ("ip", 1)):
        made = writer.create(
            Collection("", "avatar-7", f"hard-{space}", {"a.b": 2**53 + 1}, None, {"hnsw": {"space": space}})
        )
        vectors = np.random.default_rng(seed).normal(size=(len(IDS), dimension)).astype(np.float32)
        metadatas = [METADATA[(number + seed) % len(METADATA)] for number in range(len(IDS))]
        writer.put(made, Records(IDS, vectors, [f"{seed} {each}" for each in IDS], metadatas, [None] * len(IDS)))
    writer.close()


def test_hard_values_of_several_users_come_back(kind: Kind, store: Store, tmp_path: Path) -> None:
    """Odd ids, lists, 64-bit integers, keys with points and extreme floats of two users: each value, bit by bit."""
    if kind.target.url.endswith(".parquet") or "tenant" in kind.target.parameters:
        users = ["42"]
    else:
        users = ["42", "o'brien@example.com"]
    for seed, user in enumerate(users):
        store.directory = tmp_path / f"hard-{seed}"
        _hard(store.directory, seed)
        store.export(kind, user=user, commit=1)
    for seed, user in enumerate(users):
        store.directory = tmp_path / f"hard-{seed}"
        assert_same(read(kind, user), store.table(), is_rounded=is_rounded(kind))


def test_nan_comes_back_or_is_refused_by_name(kind: Kind) -> None:
    """NaN in metadata, which Chroma's tables do not keep: a rule keeps it, or the record and the key are named."""
    sink = kind.sink()
    try:
        sink.state("42")
        sink.begin("42", 1, "ab")
        made = Collection("c0ffee", "default_database", "plain", {"kept": 1}, 2)
        sink.put_collection(made, Held(next_commit=1))
        metadata = {"k": math.nan, "i": [-math.inf, 1.5]}
        given = Records(["with nan"], np.ones((1, 2), np.float32), [None], [metadata], [None])
        if kind.target.kind == "chroma":
            with pytest.raises(NotExportable, match="'k' of record 'with nan'"):
                sink.put(made, given, is_new=True)
            return
        sink.put(made, given, is_new=True)
        sink.note(made, Held(1, "ab", 1))
        sink.finish()
    finally:
        sink.close()
    found = read(kind)["default_database", "plain"]["with nan"][2]
    assert repr(dict(sorted(found.items()))) == repr(dict(sorted(metadata.items())))


# --- Faults ---------------------------------------------------------------------------------------------


@contextmanager
def _server(answer: bytes | None) -> Iterator[int]:
    """Run a server that answers every request with the same bytes, or never."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for connection in held:
                connection.close()


def _http(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize("scheme", ["chroma+http", "qdrant+http"])
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_http("401 Unauthorized", f'{{"error": "no such key {SECRET}"}}'.encode()), TargetRefused),
        (_http("403 Forbidden", f'{{"error": "{QUOTED}"}}'.encode()), TargetRefused),
        (_http("507 Insufficient Storage", b'{"error": "disk full"}'), TargetUnavailable),
        (_http("429 Too Many Requests", b"{}"), TargetUnavailable),
        (None, TargetUnavailable),
    ],
)
def test_servers_that_refuse_are_full_or_slow(
    scheme: str,
    answer: bytes | None,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each fault is an error of its kind within the bound, and no message and no log line has the password."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(chroma_server, "_TIMEOUT_S", 1)
    monkeypatch.setattr(qdrant, "_TIMEOUT_S", 1)
    with _server(answer) as port:
        target = parse(f"{scheme}://:{QUOTED}@127.0.0.1:{port}")
        with pytest.raises(error) as raised:
            sink = registry.open_sink(target)
            try:
                sink.state("42")
            finally:
                sink.close()
        with pytest.raises(error) as of_source:
            registry.open_source(target, "42")
    for text in (str(raised.value), repr(raised.value), str(of_source.value), caplog.text, repr(target)):
        assert SECRET not in text
        assert QUOTED not in text


@pytest.mark.parametrize("scheme", ["chroma+http", "qdrant+http", "postgresql"])
def test_a_server_that_is_away_is_unavailable(scheme: str) -> None:
    """Nothing listens: the error may be tried again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(TargetUnavailable) as raised:
            registry.open_sink(parse(f"{scheme}://u:{QUOTED}@127.0.0.1:{probe.getsockname()[1]}")).state("42")
    assert SECRET not in str(raised.value)


def test_a_wrong_password_of_postgresql_is_in_no_message(
    postgres: Postgres,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A real server that asks for a password refuses a wrong one, and takes the right one."""
    caplog.set_level(logging.DEBUG)
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute("CREATE ROLE careful LOGIN SUPERUSER PASSWORD 'right'")
        row = db.execute("SHOW hba_file").fetchone()
        assert row is not None
        rules = Path(row[0])
        before = rules.read_text()
        rules.write_text("host all careful 127.0.0.1/32 scram-sha-256\n" + before)
        db.execute("SELECT pg_reload_conf()")
        try:
            place = postgres.url.partition("@")[2]
            registry.open_sink(parse(f"postgresql://careful:right@{place}")).close()
            with pytest.raises(TargetRefused, match="authentication failed") as raised:
                registry.open_sink(parse(f"postgresql://careful:{QUOTED}@{place}"))
        finally:
            rules.write_text(before)
            db.execute("SELECT pg_reload_conf()")
    for text in (str(raised.value), raised.value.detail, caplog.text):
        assert SECRET not in text
        assert QUOTED not in text


def test_a_postgresql_that_is_slow_or_full_keeps_what_it_had(
    postgres: Postgres,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A statement that takes too long, and no space for the rows: an error, and the export before is still whole."""
    url = database(postgres)
    target = parse(url)
    kind = Kind(target, lambda: registry.open_sink(target), lambda user: registry.open_source(target, user))
    store.export(kind)
    wanted = read(kind)
    store.change(lambda chroma: chroma.upsert(chroma.collection("plain"), ["late"], np.ones((1, 3), np.float32)))
    with psycopg.connect(url) as db:
        # What a full disk answers.
        db.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
        )
        db.execute("CREATE TRIGGER full_disk BEFORE INSERT ON vectorpool.records EXECUTE FUNCTION full_disk()")
    with pytest.raises(TargetRefused, match="No space left"):
        store.export(kind, commit=2)
    with psycopg.connect(url) as db:
        db.execute("DROP TRIGGER full_disk ON vectorpool.records")
    assert_same(read(kind), wanted)
    monkeypatch.setattr(postgresql, "_STATEMENT_MS", 300)
    monkeypatch.setattr(postgresql, "_LOCK_MS", 60_000)
    with psycopg.connect(url) as holder:
        holder.execute("LOCK TABLE vectorpool.records IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(TargetUnavailable, match="too long"):
            store.export(kind, commit=2)
    monkeypatch.undo()
    assert_same(read(kind), wanted)
    assert store.export(kind, commit=2).written == 1
    assert_same(read(kind), store.table())
    with pytest.raises(UserNotFound):
        read(kind, "another")
