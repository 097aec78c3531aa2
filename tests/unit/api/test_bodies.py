"""Bodies of the native API: what is not known in them is answered with what is."""

from __future__ import annotations

from typing import Any

import pytest

from vectorpool.api.requests import (
    CreateCollectionBody,
    IngestBody,
    PassageQueryBody,
    QueryBody,
    RecordBody,
    decode,
)
from vectorpool.errors import MalformedJson


@pytest.mark.parametrize(
    ("body", "shape", "said"),
    [
        (b'{"nresults": 1}', QueryBody, "Did you mean n_results?"),
        (b'{"nResults": 1}', QueryBody, "Did you mean n_results?"),
        (b'{"query_embeddings": []}', QueryBody, "Did you mean embeddings?"),
        (b'{"name": "abc", "hnsw": {"spaec": "l2"}}', CreateCollectionBody, "Did you mean space?"),
        (b'{"id": "a", "metadatas": {}}', RecordBody, "Did you mean metadata?"),
        (b'{"id": "a", "text": "b"}', RecordBody, "Known are id, document, embedding, metadata, uri."),
        (b'{"path": ["a"]}', IngestBody, "Did you mean paths?"),
        (b'{"question": "b"}', PassageQueryBody, "Known are text, texts,"),
    ],
)
def test_an_unknown_field_is_answered_with_the_nearest(body: bytes, shape: Any, said: str) -> None:
    """The refusal names the field, where it stands, and what was probably meant, or all that is known there."""
    with pytest.raises(MalformedJson) as caught:
        decode(body, shape)
    assert "unknown field" in caught.value.detail and said in caught.value.detail
