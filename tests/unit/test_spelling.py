"""The nearest names: what was probably meant, and nothing where nothing is near."""

from __future__ import annotations

import pytest

from vectorpool.spelling import meant, nearest

KNOWN = ("n_results", "texts", "embeddings", "where", "where_document", "max_dimension", "--open-slots")


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("nresults", "n_results"),
        ("n-results", "n_results"),
        ("N_RESULTS", "n_results"),
        ("text", "texts"),
        ("embedding", "embeddings"),
        ("dimension", "max_dimension"),
        ("open_slot", "--open-slots"),
    ],
)
def test_the_nearest_name_comes_first(name: str, first: str) -> None:
    """Case, hyphens, a missing letter and a missing part do not hide what was meant."""
    assert nearest(name, KNOWN)[0] == first


@pytest.mark.parametrize("name", ["", "xyzzy", "q", "n" * 100_000])
def test_nothing_is_guessed_where_nothing_is_near(name: str) -> None:
    """A name that is like none of them, or too long to compare, gets no suggestion."""
    assert (nearest(name, KNOWN), meant(name, KNOWN)) == ([], "")


def test_several_are_joined() -> None:
    """The sentence names up to three, the nearest first."""
    assert meant("where_documents", KNOWN) == " Did you mean where_document?"
    assert meant("where_doc", ("where_document", "where")).startswith(" Did you mean where_document or")
