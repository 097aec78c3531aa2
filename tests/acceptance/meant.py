"""Native requests that mean something: places that exist, and bodies that fit what is stored there."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from tests.protocol import generated

USER: Final = "fuzzed"
COLLECTIONS: Final = ("notes", "spare")
DOCUMENTS: Final = ("a.txt", "spare.txt")
BACKUPS: Final = ("monday", "spare")
# A user has these parameters of every read; most values of them name a commit that is not there.
DROPPED: Final = (
    "at",
    "X-Vectorpool-Min-Commit",
    "X-Vectorpool-Consistency",
    "cursor",
    "after",
    "If-Match",
    "If-None-Match",
)
# They answer by an error whoever asks: the worker alone sends commands, and a directory has no upload URLs.
NEVER: Final = {"execute_command", "make_upload_url"}
# What goes with what is deleted or renamed is sent to the spare one.
_SPARE: Final = ("delete_collection", "modify_collection", "delete_backup", "delete_document", "put_document")

_ids = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True)


@st.composite
def _records(draw: st.DrawFn, ids: st.SearchStrategy[list[str]]) -> dict[str, Any]:
    records = []
    for each in draw(ids):
        record: dict[str, Any] = {"id": each, "embedding": draw(generated.vectors)}
        if draw(st.booleans()):
            record["document"] = draw(generated.documents)
        if draw(st.booleans()):
            record["metadata"] = draw(generated.metadata())
        records.append(record)
    return {"records": records}


@st.composite
def _chosen(draw: st.DrawFn) -> dict[str, Any]:
    return {name: value for name, value in draw(generated.filters()).items() if value}


@st.composite
def _gets(draw: st.DrawFn) -> dict[str, Any]:
    body = draw(_chosen())
    more = {"limit": draw(st.one_of(st.none(), st.integers(1, 5))), "offset": draw(generated.pages)}
    return body | {key: value for key, value in more.items() if value is not None}


@st.composite
def _queries(draw: st.DrawFn) -> dict[str, Any]:
    body = {name: value for name, value in draw(_chosen()).items() if name != "ids"}
    body["embeddings"] = draw(st.lists(generated.vectors, min_size=1, max_size=3))
    return body | {"n_results": draw(st.integers(1, 100))}


_new = st.integers(0, 10**9)
_BODIES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "create_collection": st.builds(
        lambda number, metadata: {"name": f"made-{number}", "metadata": metadata}, _new, generated.collection_metadata
    ),
    "modify_collection": st.builds(lambda number: {"name": f"renamed-{number}"}, _new),
    "add_records": st.builds(lambda number: {"records": [{"id": f"n{number}", "embedding": [1, 2, 3]}]}, _new),
    "upsert_records": _records(_ids),
    "update_records": _records(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)),
    "delete_records": _chosen().filter(bool),
    "get_records": _gets(),
    "query_records": _queries(),
    "stream_records": st.sampled_from([b'{"id": "s", "embedding": [1, 2, 3]}\n', b'{"id": "s", "text": 3}\n']),
    "query_documents": st.builds(lambda text: {"text": text or "warranty", "n_results": 3}, generated.documents),
    "ingest_documents": st.sampled_from([{}, {"paths": ["a.txt"]}, {"chunk_tokens": 50}]),
    "put_pipeline": st.sampled_from([{"strategy": "rows"}, {"strategy": "none"}, {"chunk_tokens": 120}]),
    "fork": st.builds(lambda number: {"user_id": f"forked-{number}"}, _new),
    "restore": st.sampled_from([{"commit": 1}, {"backup": "monday"}, {"commit": 10**6}]),
    "create_backup": st.just({}),
    "mint_token": st.just({"users": ["42"], "access": "read", "ttl_s": 60}),
    "revoke_token": st.builds(lambda number: {"token_id": f"of-{number}"}, _new),
    "keep_open": st.just({"for_s": 60}),
    "set_limits": st.sampled_from([{}, {"records": 100_000}, {"burst": None}]),
    "embed_texts": st.builds(lambda text: {"texts": [text or "warranty"]}, generated.documents),
    "make_upload_url": st.just({"path": "up.txt"}),
}


def places(operation: str, job_id: str, number: int) -> dict[str, str]:
    """Return what the parameters of an operation's path are to be, so that it finds something."""
    spare = operation.removeprefix("avatar_") in _SPARE
    names = BACKUPS if "backup" in operation else COLLECTIONS
    made = f"made-{number}"
    return {
        "user_id": f"imported-{number}" if operation == "import_user" else USER,
        "avatar_id": "7",
        "name": made if operation == "create_backup" else names[spare],
        "path": DOCUMENTS[spare],
        "job_id": job_id,
        "shard": "0",
    }


@st.composite
def bodies(draw: st.DrawFn, operation: str, body: Any) -> Any:
    """A body for an operation: mostly one that fits, else ``body`` as it is."""
    fitting = _BODIES.get(operation.removeprefix("avatar_"))
    return draw(fitting) if fitting is not None and draw(st.integers(0, 2)) else body
