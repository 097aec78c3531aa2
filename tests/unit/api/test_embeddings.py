from __future__ import annotations

import numpy as np
import pytest

from tests.unit.api.parts import FakeRouter, LetterEmbedder, application, talk
from vectorpool.api.embeddings import embed_missing, for_query, pack, to_row
from vectorpool.commands import Vectors
from vectorpool.context import BACKGROUND
from vectorpool.errors import InvalidEmbedding, LimitExceeded
from vectorpool.settings import Settings

SETTINGS = Settings(max_dimension=8, max_queries=3)


def rows_of(vectors: Vectors) -> list[list[float]]:
    return np.frombuffer(vectors.data, dtype="<f4").reshape(-1, vectors.dimension).tolist()  # type: ignore[no-any-return]


def test_numbers_become_float32_rows() -> None:
    """Integers and doubles become little-endian float32, row after row."""
    rows = [to_row([1, 2.5], SETTINGS, of="a"), to_row([-0.0, 3e38], SETTINGS, of="b")]
    vectors = pack(rows, ["a", "b"], embedder=None, positions=None)
    assert (vectors.dimension, vectors.embedder, vectors.rows) == (2, None, None)
    assert rows_of(vectors) == [[1.0, 2.5], [-0.0, float(np.float32(3e38))]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e39, -1e39])
def test_what_float32_cannot_hold_is_refused_with_its_place(bad: float) -> None:
    """NaN, infinity, and doubles that become infinite."""
    with pytest.raises(InvalidEmbedding, match="record 'a'") as caught:
        to_row([0.0, 1.0, bad], SETTINGS, of="record 'a'")
    assert caught.value.extra == {"position": 2}


def test_empty_and_too_long_rows_are_refused() -> None:
    """A row has 1 to max_dimension numbers."""
    with pytest.raises(InvalidEmbedding, match="empty"):
        to_row([], SETTINGS, of="a")
    assert len(to_row([1.0] * 8, SETTINGS, of="a")) == 8
    with pytest.raises(LimitExceeded) as caught:
        to_row([1.0] * 9, SETTINGS, of="a")
    assert caught.value.extra == {"limit": 8, "limit_name": "max_dimension", "count": 9}


def test_ragged_rows_are_refused_by_name() -> None:
    """The odd one out is named, with both lengths."""
    rows = [to_row([1.0] * length, SETTINGS, of="x") for length in (3, 3, 2)]
    with pytest.raises(InvalidEmbedding, match=r"record 'c' has 2 numbers, that of record 'a' has 3"):
        pack(rows, ["record 'a'", "record 'b'", "record 'c'"], embedder=None, positions=None)


async def test_only_rows_without_embedding_are_embedded() -> None:
    """Given rows stay; texts fill the gaps, in order; the embedder is named because it made one."""
    embedder = LetterEmbedder()
    given = [None, to_row([9, 9, 9, 9], SETTINGS, of="b"), None]
    vectors = await embed_missing(given, ["aa", "ignored", "eio"], ["a", "b", "c"], embedder, BACKGROUND, user_id="42")
    assert vectors is not None
    assert embedder.asked == [["aa", "eio"]]
    assert rows_of(vectors) == [[2, 0, 0, 0], [9, 9, 9, 9], [0, 1, 1, 1]]
    assert (vectors.embedder, vectors.rows) == ("letters", None)


async def test_rows_of_updates_say_which_records_have_one() -> None:
    """Records that bring neither document nor embedding have no row, and no text is embedded for them."""
    embedder = LetterEmbedder()
    given = [None, to_row([1, 0, 0, 0], SETTINGS, of="b"), None]
    vectors = await embed_missing(given, [None, None, None], ["a", "b", "c"], embedder, BACKGROUND, user_id="42")
    assert vectors is not None
    assert (vectors.rows, vectors.embedder, embedder.asked) == ([1], None, [])
    assert await embed_missing([None], [None], ["a"], embedder, BACKGROUND, user_id="42") is None


async def test_a_given_row_of_another_length_than_the_embedders_is_refused() -> None:
    """Mixing is possible only in one dimension."""
    with pytest.raises(InvalidEmbedding, match="has 2 numbers"):
        await embed_missing(
            [None, to_row([1, 2], SETTINGS, of="b")],
            ["aa", None],
            ["a", "b"],
            LetterEmbedder(),
            BACKGROUND,
            user_id="42",
        )


async def test_queries_are_texts_or_embeddings() -> None:
    """Texts carry the embedder's name, embeddings carry none, and their number is bounded."""
    embedder = LetterEmbedder()
    of_texts = await for_query(["a", "e"], None, embedder, SETTINGS, BACKGROUND, user_id="42")
    assert (rows_of(of_texts), of_texts.embedder) == ([[1, 0, 0, 0], [0, 1, 0, 0]], "letters")
    of_rows = await for_query(None, [[1, 2]], embedder, SETTINGS, BACKGROUND, user_id="42")
    assert (rows_of(of_rows), of_rows.embedder) == ([[1, 2]], None)
    with pytest.raises(LimitExceeded):
        await for_query(["a"] * 4, None, embedder, SETTINGS, BACKGROUND, user_id="42")
    assert embedder.asked == [["a", "e"]], "what is refused is not embedded"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/users/42/collections/notes/records", {"records": [{"id": "a", "document": "eio"}]}),
        ("/users/42/avatars/7/collections/notes/records", {"records": [{"id": "a", "document": "eio"}]}),
        ("/users/42/collections/notes/query", {"texts": ["a"]}),
        ("/users/42/avatars/7/collections/notes/query?consistency=local", {"texts": ["a"]}),
        ("/users/42/avatars/7/query", {"text": "a"}),
    ],
)
async def test_every_text_takes_the_turns_of_its_user(path: str, body: dict[str, object]) -> None:
    """Whatever is to be embedded waits for the user of the path, with records as with questions."""
    app = application(FakeRouter())
    async with talk(app) as client:
        await client.post(path, json=body)
    assert app.app.state.service.embedder.users == ["42"]
