"""Every decoder of bytes that others may have made: mutated inputs give a value or the decoder's own refusal.

Mutations start from valid inputs, and what protects them (checksums, signatures) is made anew, so that they reach what
is behind it. No input raises anything but the refusal that the decoder names, and none takes much time or memory.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.mutations import DEPTH, deep, mutate, scramble
from tests.support.tokens import ISSUER, NOW_S, SECRET, Clock, claims_with, forged, jwk, jwks, own_token
from vectorpool import names
from vectorpool.allowances.stored import LimitStore
from vectorpool.answers import Deletion
from vectorpool.api import forms, requests, streams
from vectorpool.api.callers import token_of
from vectorpool.api.read_options import read_options_of
from vectorpool.audit import Audit, Entry, Query
from vectorpool.chroma_bodies import Operation, Target, decode_body
from vectorpool.commands import CountRecords
from vectorpool.commitlog import deletions, format, tags
from vectorpool.commitlog.body import unpack_frame
from vectorpool.commitlog.json_objects import load_json
from vectorpool.commitlog.outcomes import ScrubReport, Tag
from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.context import CarriedContext
from vectorpool.documents.events import read_events
from vectorpool.errors import UNDECODABLE, CorruptObject, ErrorWire, NewerFormat, Unauthenticated, VectorpoolError
from vectorpool.identity import jwks as provider
from vectorpool.identity.authority import Authority
from vectorpool.identity.claims import names_of, read_claims
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.shard.protocol import (
    Answered,
    Execute,
    ExecuteBody,
    Failed,
    Part,
    encode_frame,
    from_shard_decoder,
    to_shard_decoder,
)
from vectorpool.sources import SYSTEM

KEY: Final = "users/42/vectorstore/log/999999999998"
# What one input may take: far more than it takes, and far less than what it could make a decoder do.
MOST_S: Final = 5.0
MOST_BYTES: Final = 64 * 1024**2
_FRAME_HEAD: Final = 4


class Decoder(NamedTuple):
    """A decoder: valid inputs, how one is mutated (the dice decide), what decodes it, and what it may raise."""

    valid: tuple[bytes, ...]
    mutated: Callable[[bytes, random.Random], bytes]
    decode: Callable[[bytes], Any]
    refusals: tuple[type[Exception], ...]


# --- The commit log ------------------------------------------------------------------------------------


def _header(**changes: Any) -> format.Header:
    body = b"x" * 4096
    files = [format.FileEntry("chroma.sqlite3", 8192, b"d" * 16), format.FileEntry("a/length.bin", 100, b"e" * 16)]
    frames = [format.Frame(format.STORED, 4096, 4096, format.digest(body), [(0, 4096, 4096)])]
    whole: dict[str, Any] = {
        "kind": "commit",
        "seq": 2,
        "after": 1,
        "parent_hash": b"p" * 16,
        "writer": "w",
        "time_ms": 1,
        "files": files,
        "removed": ["b/length.bin"],
        "frames": frames,
        "body_checksum": format.body_checksum(frames),
        "state_before": b"s" * 16,
        "state_after": format.state_checksum(files),
        "summary": format.Summary(added=1, collections=("notes",)),
        "stamp": EngineStamp("1.5.9", b"f" * 16, {"sysdb": 9}, 2),
    }
    return format.Header(**{**whole, **changes})


def _mutated_header(valid: bytes, dice: random.Random) -> bytes:
    """Mutate the header's values, and make the checksums of the prelude and of the tables anew."""
    tree = msgspec.msgpack.decode(valid[format.PRELUDE_BYTES :])
    tree = mutate(tree, dice, with_bytes=True)
    if isinstance(tree, dict) and dice.random() < 0.5:
        # The checksum of the file table guards what follows it.
        try:
            entries = [format.FileEntry(*entry) for entry in tree["files"]]
            tree["state_after"] = format.state_checksum(entries)
        except Exception:
            pass
    data = msgspec.msgpack.encode(tree)
    if dice.random() < 0.1:
        data = scramble(data, dice)
    if dice.random() < 0.05:
        data = b"\x91" * DEPTH + data
    start = b"vpLG" + bytes((dice.choice((1, 1, 1, 1, 0, 2, 255)), 0, 0, 0)) + len(data).to_bytes(4, "little")
    return start + format.digest(start + data) + data


def _unpacked(data: bytes) -> object:
    """Unpack a frame whose checksum is right and whose header says 4096 bytes."""
    frame = format.Frame(format.ZSTD, len(data), 4096, format.digest(data), [(0, 0, 4096)])
    raw = unpack_frame(KEY, frame, data)
    assert len(raw) == 4096
    return raw


def _tags(data: bytes) -> object:
    async def read() -> object:
        bucket = MemoryBucket()
        await bucket.put(names.tag_key("42", "before"), data)
        return await tags.get(bucket, "42", "before")

    return asyncio.run(read())


def _loaded(kind: type[Any]) -> Callable[[bytes], object]:
    async def load(data: bytes) -> object:
        bucket = MemoryBucket()
        await bucket.put("key", data)
        found = await load_json(bucket, "key", kind)
        assert found is None or isinstance(found, kind)
        return found

    return lambda data: asyncio.run(load(data))


AUDIT_KEY: Final = names.audit_key("2026-11-21", 1_700_000_000_000, "0a" * 16, "42", "delete", "ended")


def _audited(data: bytes) -> object:
    async def read() -> object:
        bucket = MemoryBucket()
        await bucket.put(AUDIT_KEY, data)
        page = await Audit(bucket, Settings()).page(Query(), limit=10)
        assert len(page.entries) + page.unreadable == 1
        return page

    return asyncio.run(read())


def _limited(data: bytes) -> object:
    async def read() -> object:
        bucket = MemoryBucket()
        await bucket.put(names.limits_key("42"), data)
        store = LimitStore(SYSTEM)
        await store.open(bucket)
        return store.given("42")

    return asyncio.run(read())


def _parsed_key(data: bytes) -> object:
    key = data.decode("utf-8", "surrogateescape")
    for prefix in ("", names.deletion_marks_prefix(), names.revocations_prefix(), "users/42/vectorstore/"):
        names.parse_revocation_key(prefix + key)
        deletions.parse_mark(prefix + key)
        names.parse_log_name(prefix + key)
        names.parse_kept_key(prefix + key)
        names.parse_floor_key(prefix + key)
        names.parse_limits_key(prefix + key)
        names.parse_audit_key(prefix + key)
    return None


# --- JSON ----------------------------------------------------------------------------------------------


def _mutated_json(valid: bytes, dice: random.Random) -> bytes:
    tree = mutate(json.loads(valid), dice)
    if dice.random() < 0.05:
        tree = {"surplus": deep(1), **tree} if isinstance(tree, dict) else deep(tree)
        return _dumped(tree)
    data = json.dumps(tree).encode()
    if dice.random() < 0.1:
        # Halves of surrogate pairs, bytes that are no UTF-8, numbers beyond all types.
        data = data.replace(b'"', dice.choice((b'"\\ud800', b'"\xff', b'"\\u0000')), 2)
    if dice.random() < 0.1:
        data = data.replace(b"1", dice.choice((b"1e400", b"9" * 5000, b"-0", b"NaN", b"1E-400")), 1)
    return scramble(data, dice) if dice.random() < 0.2 else data


def _dumped(tree: Any) -> bytes:
    """Return deep JSON, which Python's own encoder does not write."""
    text = json.dumps("leaf")
    depth = DEPTH
    prefix = '{"surplus":' if isinstance(tree, dict) else ""
    return (prefix + "[" * depth + text + "]" * depth + ("}" if prefix else "")).encode()


_BODIES: Final[dict[type[Any], Any]] = {
    requests.CreateCollectionBody: {"name": "notes", "metadata": {"a": 1}, "hnsw": {"space": "l2"}},
    requests.WriteRecordsBody: {"records": [{"id": "a", "document": "x", "embedding": [1, 2.5], "metadata": {"n": 1}}]},
    requests.DeleteRecordsBody: {"ids": ["a"], "where": {"n": {"$gt": 1}}},
    requests.GetRecordsBody: {"ids": ["a"], "limit": 1, "offset": 1, "include": ["documents"]},
    requests.QueryBody: {"embeddings": [[1, 2]], "n_results": 1, "where": {"$and": [{"a": 1}, {"b": 1}]}},
    requests.RestoreBody: {"commit": 1},
    requests.ForkBody: {"user_id": "43", "commit": 1},
    requests.MintTokenBody: {"users": ["42"], "avatars": ["1"], "limits": {"records": 1}, "ttl_s": 100},
    requests.RevokeTokenBody: {"token_id": "a1", "expires_at_ms": 1},
    requests.IngestBody: {"paths": ["a/b.md"], "force": True},
    requests.PassageQueryBody: {"text": "how?", "n_results": 1},
}
_CHROMAS: Final[dict[Operation, Any]] = {
    "create-collection": {"name": "notes", "metadata": {"a": 1}, "get_or_create": True},
    "update-collection": {"new_name": "other", "new_metadata": {"a": 1}},
    "add": {"ids": ["a"], "embeddings": [[1, 2.5]], "documents": ["x"], "metadatas": [{"n": 1}], "uris": ["u"]},
    "upsert": {"ids": ["a"], "embeddings": ["AACAPwAAAEA="], "documents": ["x"], "metadatas": [{"n": [1, 2]}]},
    "update": {"ids": ["a"], "embeddings": None, "documents": ["x"]},
    "delete": {"ids": ["a"], "where": {"n": {"$in": [1, 2]}}, "where_document": {"$contains": "x"}},
    "get": {"ids": ["a"], "where": {"$or": [{"n": 1}, {"m": 1}]}, "limit": 1, "include": ["documents"]},
    "query": {"query_embeddings": [[1, 2]], "n_results": 1, "include": ["distances"]},
}


def _as_native(kind: type[Any]) -> Callable[[bytes], object]:
    return lambda data: requests.decode(data, kind)


def _as_chromas(operation: Operation) -> Callable[[bytes], object]:
    target = Target(operation, "default_database", "0a1b2c3d-0000-4000-8000-000000000000")
    return lambda data: decode_body(target, data, Settings())


# --- Between processes ---------------------------------------------------------------------------------


def _mutated_msgpack(valid: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.05:
        return b"\x91" * DEPTH + valid
    data = msgspec.msgpack.encode(mutate(msgspec.msgpack.decode(valid), dice, with_bytes=True))
    return scramble(data, dice) if dice.random() < 0.3 else data


def _frame(message: Any) -> bytes:
    return bytes(encode_frame(message))[_FRAME_HEAD:]


# --- Tokens --------------------------------------------------------------------------------------------


def _mutated_token(valid: bytes, dice: random.Random) -> bytes:
    """Mutate the header or the claims, and sign them anew; or the token itself."""
    if dice.random() < 0.2:
        return scramble(valid, dice)
    header: Any = {"alg": "HS256", "typ": "JWT"}
    claims: Any = json.loads(_WHOLE)
    if dice.random() < 0.5:
        header = mutate(header, dice)
    else:
        claims = mutate(claims, dice)
    if dice.random() < 0.05:
        claims = b"[" * DEPTH + b"]" * DEPTH
    return forged(header, claims, dice.choice((SECRET.encode(), b"", None)))


def _identified(data: bytes) -> object:
    async def identify() -> object:
        authority = Authority(Settings(token_secret=SECRET), Clock())
        await authority.open(MemoryBucket())
        return await authority.identify(data)

    return asyncio.run(identify())


def _claimed(data: bytes) -> object:
    claims = json.loads(data)
    if not isinstance(claims, dict):
        return None
    audiences = frozenset({"vectorpool"})
    return read_claims(claims, names_of(Settings()), issuer=ISSUER, audiences=audiences, now_s=float(NOW_S))


_WHOLE: Final = json.dumps(
    claims_with(
        users=["alice", "bob"], avatars=["7"], access="write", admin=True, limits={"records": 5}, jti="t1", nbf=NOW_S
    )
).encode()
_PROVIDED: Final = json.dumps({**json.loads(_WHOLE), "iss": ISSUER, "aud": ["vectorpool"]}).encode()


def _mutated_claims(valid: bytes, dice: random.Random) -> bytes:
    return json.dumps(mutate(json.loads(valid), dice)).encode()


# --- Headers -------------------------------------------------------------------------------------------


def _options(data: bytes) -> object:
    first, _, second = data.partition(b"\n")
    fields = {b"x-vectorpool-consistency": first, b"x-vectorpool-min-commit": second}
    return read_options_of(fields, b""), read_options_of({}, data)


def _bearer(data: bytes) -> object:
    return token_of([(b"authorization", data), (b"x-chroma-token", data[7:])])


CONTEXT: Final = CarriedContext("an-id", "anybody", None, 30.0)
_FORM: Final = (
    b'--b0\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
    b'A text.\r\n--b0\r\nContent-Disposition: form-data; name="chunk_size"\r\n\r\n120\r\n--b0--\r\n'
)
_LINE: Final = b'{"id": "a", "text": "A text.", "metadata": {"page": 3}, "embedding": [0.5, 1, -2]}'
_OBJECT: Final = {"bucket": {"name": "bucket"}, "object": {"key": "p/users/42/avatars/7/vectorstore_data/a%20b.txt"}}
_RECORDS: Final = json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": _OBJECT}]})
_EVENTS: Final = (
    _RECORDS.encode(),
    json.dumps({"Type": "Notification", "Message": _RECORDS}).encode(),
    json.dumps({"source": "aws.s3", "detail": _OBJECT}).encode(),
)


def _streamed(data: bytes) -> object:
    for _ in streams.read_line(data, Settings()):
        pass
    return None


DECODERS: Final = {
    "log header": Decoder(
        (
            format.encode_header(_header())[0],
            format.encode_header(_header(kind="base", after=0, removed=[], commit_hash=b"h" * 16))[0],
        ),
        _mutated_header,
        lambda data: format.decode_header(KEY, data, len(data) + 4096),
        (CorruptObject, NewerFormat),
    ),
    "log header as bytes": Decoder(
        (format.encode_header(_header())[0], format.GRAVE),
        scramble,
        lambda data: format.decode_header(KEY, data, len(data) + 4096),
        (CorruptObject, NewerFormat),
    ),
    "frame of a log object": Decoder(
        (
            zstandard.compress(b"x" * 4096),
            zstandard.compress(random.Random(1).randbytes(4096)),
            # Unpacked, this is 64 times as large as its header says.
            zstandard.compress(bytes(2**28)),
        ),
        scramble,
        _unpacked,
        (CorruptObject,),
    ),
    "backup": Decoder(
        (
            msgspec.json.encode(
                Tag(name="before", seq=1, commit_hash=b"h" * 16, time_ms=1, state_checksum=b"s" * 16, maker="m")
            ),
        ),
        _mutated_json,
        _tags,
        (CorruptObject,),
    ),
    "verification": Decoder(
        (msgspec.json.encode(ScrubReport(1, 1, 1, 1, 1, [])),), _mutated_json, _loaded(ScrubReport), ()
    ),
    "receipt": Decoder(
        (b'{"user_id":"42","commit":1,"deleted_at_ms":1,"documents":1,"verified_empty_at_ms":1}',),
        _mutated_json,
        _loaded(Deletion),
        (),
    ),
    "entry of the audit": Decoder(
        (msgspec.json.encode(Entry(1_700_000_000_000, "0a" * 16, "delete", "done", "op", "42", detail={"n": 1})),),
        _mutated_json,
        _audited,
        (),
    ),
    "limits of a user": Decoder((b'{"limits":{"records":5},"changed_at_ms":1}',), _mutated_json, _limited, ()),
    "keys of objects": Decoder(
        (
            deletions.mark_key(1_700_000_000_000, "42", 7).encode(),
            names.revocation_key("t1", 1_800_000_000).encode(),
            b"999999999998",
            b"999999999998-base",
            b"999999999990-after-999999999998",
            AUDIT_KEY.encode(),
            b"kept/7/content/" + b"0a" * 32 + b"/19000",
        ),
        scramble,
        _parsed_key,
        (),
    ),
    "frame to a shard": Decoder(
        (
            _frame(Execute(1, "42", CountRecords(collection="notes"), CONTEXT)),
            _frame(ExecuteBody(1, "42", Target("get", "default_database", "id"), b"{}", CONTEXT)),
            _frame(Part(1, b"{}")),
        ),
        _mutated_msgpack,
        to_shard_decoder.decode,
        UNDECODABLE,
    ),
    "frame from a shard": Decoder(
        (_frame(Answered(1, b"{}", 7)), _frame(Failed(1, ErrorWire("not-found", "No.", None, {})))),
        _mutated_msgpack,
        from_shard_decoder.decode,
        UNDECODABLE,
    ),
    "token": Decoder((own_token(json.loads(_WHOLE)),), _mutated_token, _identified, (Unauthenticated,)),
    "claims": Decoder((_WHOLE, _PROVIDED), _mutated_claims, _claimed, (Unauthenticated,)),
    "JWKS": Decoder(
        (jwks(*(jwk(algorithm, algorithm) for algorithm in ("RS256", "ES256", "EdDSA"))),),
        _mutated_json,
        provider.parse,
        (provider.Unusable,),
    ),
    "read options": Decoder((b"bounded(500)\n17", b"at=17", b"strong\n1"), scramble, _options, (VectorpoolError,)),
    "form": Decoder((_FORM,), scramble, partial(forms.read_form, boundary="b0"), (VectorpoolError,)),
    "line of a stream": Decoder((_LINE,), _mutated_json, _streamed, (VectorpoolError,)),
    "event of a store": Decoder(
        _EVENTS, _mutated_json, partial(read_events, bucket="bucket", prefix="p/"), (VectorpoolError,)
    ),
    "bearer": Decoder((b"Bearer abc.def.ghi",), scramble, _bearer, (Unauthenticated,)),
    **{
        f"native {kind.__name__}": Decoder(
            (json.dumps(body).encode(),), _mutated_json, _as_native(kind), (VectorpoolError,)
        )
        for kind, body in _BODIES.items()
    },
    **{
        f"Chroma's {operation}": Decoder(
            (json.dumps(body).encode(),), _mutated_json, _as_chromas(operation), (VectorpoolError,)
        )
        for operation, body in _CHROMAS.items()
    },
}


def _fuzz(name: str, examples: int) -> None:
    decoder = DECODERS[name]
    taken = refused = 0

    @settings(
        max_examples=examples, deadline=None, derandomize=examples < 1000, suppress_health_check=list(HealthCheck)
    )
    @given(seed=st.integers(0, 2**32))
    def decode(seed: int) -> None:
        nonlocal taken, refused
        dice = random.Random(seed)
        data = decoder.mutated(dice.choice(decoder.valid), dice)
        began_s = time.monotonic()
        try:
            decoder.decode(data)
            taken += 1
        except decoder.refusals as error:
            refused += 1
            assert len(str(error)) < 4000, "a refusal repeats what was sent"
        assert time.monotonic() - began_s < MOST_S
        assert len(data) < MOST_BYTES

    decode()
    assert taken + refused >= examples // 2
    if decoder.refusals:
        assert refused, "no mutation was refused, so none was deep enough"


@pytest.mark.parametrize("name", DECODERS)
def test_valid_inputs_are_taken(name: str) -> None:
    """What the mutations start from is valid, but for the bomb among the frames and the bytes of a grave."""
    decoder = DECODERS[name]
    taken = 0
    for valid in decoder.valid:
        try:
            decoder.decode(valid)
            taken += 1
        except decoder.refusals:
            continue
    assert taken


@pytest.mark.parametrize("name", DECODERS)
def test_mutated_inputs_are_taken_or_refused(name: str) -> None:
    """Nothing but the decoder's own refusal comes out of it."""
    _fuzz(name, 150)


def test_a_packed_embedding_that_is_no_text_is_refused() -> None:
    """Bytes that are not UTF-8 where base64 is meant, and half of a surrogate pair, are the caller's mistake."""
    for text in (b"\xff\xfe", b"\\ud800"):
        with pytest.raises(VectorpoolError):
            _as_chromas("upsert")(b'{"ids":["a"],"embeddings":["' + text + b'"]}')


@pytest.mark.long
@pytest.mark.parametrize("name", DECODERS)
def test_many_mutated_inputs_are_taken_or_refused(name: str) -> None:
    """The same, at length, with other inputs each time."""
    _fuzz(name, 20_000)


def test_a_frame_that_unpacks_to_more_is_refused_within_its_bound() -> None:
    """A frame of a few bytes that would unpack to 256 MiB takes no more memory than a frame may."""
    bomb = DECODERS["frame of a log object"].valid[-1]
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObject):
            _unpacked(bomb)
        assert tracemalloc.get_traced_memory()[1] <= MOST_BYTES
    finally:
        tracemalloc.stop()
