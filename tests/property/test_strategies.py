"""Every strategy of cutting: nothing is lost, nothing is too long, and each cuts where it says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.test_chunking import TOKENS, texts
from vectorpool.documents.chunking import ChunkSize, split
from vectorpool.errors import LimitExceeded
from vectorpool.extraction.extracts import Section
from vectorpool.settings import ChunkStrategy

STRATEGIES: list[ChunkStrategy] = ["auto", "tokens", "sentences", "markdown", "rows", "code"]
SIZE = ChunkSize(40, 8)


@given(texts, st.sampled_from(STRATEGIES), st.sampled_from(["prose", "rows", "code"]))
@settings(max_examples=200, deadline=None)
def test_every_strategy_covers_the_text_within_the_limit(text: str, strategy: ChunkStrategy, kind: str) -> None:
    """Whatever the text: each character that is not white space is in a chunk, and no chunk is too long."""
    text = text.encode("utf-8", "replace").decode()
    header = text.partition("\n")[0] if kind == "rows" and text.partition("\n")[0].strip() else None
    section = Section(0, len(text), kind=kind, header=header)  # type: ignore[arg-type]
    chunks = split(text, (section,), SIZE, TOKENS, strategy)
    covered = bytearray(len(text))
    for chunk in chunks:
        assert chunk.text.endswith(text[chunk.start : chunk.end])
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
    assert all(covered[at] or text[at].isspace() for at in range(len(text)))
    counts = TOKENS.count([chunk.text for chunk in chunks])
    assert all(n <= SIZE.tokens or c.end - c.start == 1 for n, c in zip(counts, chunks, strict=True))


def test_rows_are_whole_and_repeat_the_names() -> None:
    """A chunk of a table has whole lines, below the names of their cells."""
    rows = [f"pump {number} | {number * 7} crowns" for number in range(50)]
    text = "\n".join(["part | price", *rows])
    chunks = split(text, (Section(0, len(text), kind="rows", header="part | price"),), SIZE, TOKENS)
    assert len(chunks) > 5 and all(chunk.text.startswith("part | price\n") for chunk in chunks)
    assert [line for chunk in chunks for line in chunk.text.split("\n")[1:]] == rows


def test_code_is_cut_before_definitions() -> None:
    """Functions that fit stay whole."""
    functions = [f"def function_{n}(x):\n    y = x + {n}\n\n    return y" for n in range(12)]
    text = "\n\n\n".join(functions)
    chunks = split(text, (Section(0, len(text), kind="code"),), SIZE, TOKENS)
    assert len(chunks) > 3 and all(chunk.text.startswith("def ") for chunk in chunks)


def test_sentences_are_whole() -> None:
    """No sentence that fits is cut."""
    text = " ".join(f"This is sentence number {n} of the text." for n in range(40))
    chunks = split(text, (Section(0, len(text)),), ChunkSize(40, 0), TOKENS, "sentences")
    assert all(chunk.text.startswith("This") and chunk.text.endswith("text.") for chunk in chunks)


def test_tokens_fill_chunks_across_headings_and_not_across_pages() -> None:
    """Sections of one page are one text."""
    parts = [f"Part {n} is here. " for n in range(4)]
    text = "".join(parts)
    at = [sum(map(len, parts[:n])) for n in range(5)]
    sections = [Section(at[n], at[n + 1], f"H{n}", page=1 + n // 2) for n in range(4)]
    chunks = split(text, sections, SIZE, TOKENS, "tokens")
    assert [(chunk.page, chunk.text) for chunk in chunks] == [
        (1, "Part 0 is here. Part 1 is here."),
        (2, "Part 2 is here. Part 3 is here."),
    ]


def test_markdown_finds_headings_in_plain_text() -> None:
    """A text file that is Markdown can be cut as such."""
    text = "# One\n\nFirst.\n\n## Two\n\nSecond.\n"
    chunks = split(text, (Section(0, len(text)),), SIZE, TOKENS, "markdown")
    assert [(chunk.heading, chunk.start) for chunk in chunks] == [("One", 0), ("One > Two", 15)]
    assert len(split(text, (Section(0, len(text)),), SIZE, TOKENS)) == 1


def test_none_makes_one_record_or_refuses() -> None:
    """What the model would not read whole is refused with the number of its tokens."""
    text = "One sentence. " * 20
    section = Section(0, len(text))
    (chunk,) = split(text, (section,), SIZE, TOKENS, "none", most_tokens=254)
    assert (chunk.text, chunk.start) == (text.strip(), 0)
    with pytest.raises(LimitExceeded, match="60 tokens; the model reads 40"):
        split(text, (section,), SIZE, TOKENS, "none", most_tokens=40)
    with pytest.raises(LimitExceeded, match="characters"):
        split(text * 100, (Section(0, len(text) * 100),), SIZE, TOKENS, "none", most_tokens=40)
