"""Requests for every operation that mean something: places that exist, and bodies that fit what is stored there.

What the OpenAPI document allows is mostly refused for a reason that it cannot state: vectors or columns of unequal
lengths, filters that are none. So a share of the bodies is replaced, and another mended, to get past that.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.protocol import generated

TENANT, DATABASE, SPARE = "fuzzed", "default_database", "avatar-9"
NAMES = ("books", "spare")
# By these a path names a collection, by its id in all others.
_BY_NAME = ("chroma_get_collection", "chroma_delete_collection")
# They answer by an error whoever asks: reset is not allowed, and the others a single-node server does not offer.
NEVER = {
    "chroma_reset",
    "chroma_get_collection_by_crn",
    "chroma_search",
    "chroma_fork",
    "chroma_fork_count",
    "chroma_indexing_status",
    "chroma_attach_function",
    "chroma_detach_function",
    "chroma_get_function",
}

_names = st.sampled_from([*NAMES, "papers", "letters"])
_made = st.builds(
    lambda name, rest: {"name": name, **rest},
    _names,
    st.fixed_dictionaries(
        {"get_or_create": st.booleans()},
        optional={"metadata": generated.collection_metadata, "configuration": generated.configurations()},
    ),
)
_changed = st.fixed_dictionaries(
    {},
    optional={
        "new_metadata": generated.collection_metadata,
        "new_name": _names,
        "new_configuration": st.builds(lambda ef: {"hnsw": {"ef_search": ef}}, st.integers(1, 50)),
    },
)
_deleted = st.builds(
    lambda chosen, limit: chosen | ({} if limit is None else {"limit": limit}), generated.filters(), generated.pages
)
_BODIES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "chroma_create_tenant": st.integers(0, 10**9).map(lambda number: {"name": f"user-{number}"}),
    "chroma_update_tenant": st.builds(lambda name: {"resource_name": name}, generated.texts),
    "chroma_create_database": st.integers(0, 10**9).map(lambda number: {"name": f"avatar-{number}"}),
    "chroma_create_collection": _made,
    "chroma_update_collection": _changed,
    "chroma_add": generated.columns("add"),
    "chroma_upsert": generated.columns("upsert"),
    "chroma_update": generated.columns("update"),
    "chroma_delete": _deleted,
    "chroma_get": generated.gets(),
    "chroma_query": generated.queries(),
}


def places(operation: str, collection_id: str) -> dict[str, str]:
    """Return what the parameters of an operation's path are to be, so that it finds something."""
    return {
        "tenant": TENANT,
        "database": SPARE if operation == "chroma_delete_database" else DATABASE,
        "collection": NAMES[1] if operation in _BY_NAME else collection_id,
    }


@st.composite
def bodies(draw: st.DrawFn, operation: str, body: Any) -> Any:
    """A body for an operation: one that fits, or ``body`` with its columns mended, or ``body`` as it is."""
    if not isinstance(body, dict):
        return body
    match draw(st.integers(0, 3)):
        case 0 | 1 if operation in _BODIES:
            return draw(_BODIES[operation])
        case 2:
            return _mended(draw, body)
    return body


def _mended(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    mended = {key: value for key, value in body.items() if key not in ("where", "where_document")}
    if draw(st.booleans()):
        mended |= {key: body[key] for key in ("where", "where_document") if key in body}
    if mended.get("query_embeddings"):
        mended["query_embeddings"] = [draw(generated.vectors) for _ in mended["query_embeddings"]]
    ids = mended.get("ids")
    if isinstance(ids, list) and "embeddings" in mended:
        ids = [each or "a" for each in ids] or ["a"]
        mended["ids"], mended["embeddings"] = ids, [draw(generated.vectors) for _ in ids]
        for column in ("documents", "metadatas", "uris"):
            if isinstance(mended.get(column), list):
                mended[column] = (mended[column] + [None] * len(ids))[: len(ids)]
    return mended
