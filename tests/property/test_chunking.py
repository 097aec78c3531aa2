"""Chunks of any text: everything is covered, nothing is too long, and the same text gives the same chunks."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.texts import write_book
from vectorpool.documents.chunking import Chunk, ChunkSize, split
from vectorpool.embedding.tokens import Tokens, load_word_pieces
from vectorpool.extraction.extracts import Extract
from vectorpool.extraction.markdown import extract_markdown
from vectorpool.extraction.plain_text import extract_text

TOKENS = Tokens(load_word_pieces())

# Prose, structure and what breaks tokenizers: endless words, marks without words, scripts without spaces.
_PIECES = st.one_of(
    st.sampled_from(
        [
            "The quick brown fox jumps over the lazy dog. ",
            "It was antidisestablishmentarianism! ",
            '"Why?" she asked. ',
            "\n\n",
            "\n",
            " ",
            "\t",
            "\r\n",
            "# Heading\n",
            "## Sub heading ##\n",
            "Title\n=====\n",
            "```\n# no heading\n```\n",
            "~~~\n",
            "---\n",
            "- item\n",
            "日本語の文章です。",
            "naïve café ",
            "😀",
            "\u200b",
            "e\u0301\u0302",
            "x" * 300,
            "." * 90,
            "word" * 40 + " ",
        ]
    ),
    st.text(max_size=60),
)
texts = st.lists(_PIECES, max_size=60).map("".join)
sizes = st.tuples(st.integers(16, 80), st.integers(0, 60)).map(
    lambda pair: ChunkSize.fitting(pair[0], pair[1], TOKENS, 256)
)


def check_chunks(extract: Extract, chunks: list[Chunk], size: ChunkSize) -> None:
    """Assert every promise of the module for one text."""
    covered = bytearray(len(extract.text))
    for chunk in chunks:
        assert chunk.text == extract.text[chunk.start : chunk.end]
        assert chunk.text and chunk.text == chunk.text.strip()
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
        holders = [s for s in extract.sections if s.start <= chunk.start and chunk.end <= s.end]
        assert any(section.heading == chunk.heading for section in holders), "a chunk crosses a section"
    for section in extract.sections:
        for at in range(section.start, section.end):
            assert covered[at] or extract.text[at].isspace(), f"character {at} is in no chunk"
    counts = TOKENS.count([chunk.text for chunk in chunks])
    assert all(n <= size.tokens or len(c.text) == 1 for n, c in zip(counts, chunks, strict=True))
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start and before.end < after.end, "chunks are in order, and each brings news"


@given(texts, sizes)
@settings(max_examples=300, deadline=None)
def test_chunks_cover_the_text_within_the_limit(text: str, size: ChunkSize) -> None:
    """For plain text and Markdown, every non-blank character is in a chunk, and no chunk exceeds the limit."""
    data = text.encode("utf-8", "replace").replace(b"\0", b"")
    for extract in (extract_text(data), extract_markdown(data)):
        chunks = split(extract.text, extract.sections, size, TOKENS)
        check_chunks(extract, chunks, size)
        assert chunks == split(extract.text, extract.sections, size, TOKENS)


@given(texts)
@settings(max_examples=200, deadline=None)
def test_markdown_sections_tile_the_text_after_its_front_matter(text: str) -> None:
    """Sections follow one another without gap, and end with the text."""
    extract = extract_markdown(text.encode("utf-8", "replace").replace(b"\0", b""))
    for before, after in zip(extract.sections, extract.sections[1:], strict=False):
        assert before.start <= before.end == after.start
    assert extract.sections[-1].end == len(extract.text)


@given(texts, st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_overlap_repeats_at_most_what_was_asked(text: str, overlap: int) -> None:
    """What two neighbours share has no more tokens than the overlap; without one, they share nothing."""
    extract = extract_text(text.encode("utf-8", "replace").replace(b"\0", b""))
    size = ChunkSize.fitting(80, overlap, TOKENS, 256)
    chunks = split(extract.text, extract.sections, size, TOKENS)
    for before, after in itertools.pairwise(chunks):
        if after.start < before.end:
            shared = extract.text[after.start : before.end]
            assert TOKENS.count([shared])[0] <= size.overlap


@pytest.mark.parametrize(
    "text",
    ["x" * 700_000, "word " * 140_000, "." * 200_000, "日本語。" * 60_000, "a\n" * 200_000, "\u200b" * 200_000],
    ids=["one word", "one line", "dots", "no spaces", "short lines", "no tokens"],
)
def test_monotonous_text_of_megabytes_is_chunked_whole(text: str) -> None:
    """One endless word, one endless line and their like keep every promise."""
    extract = extract_text(text.encode())
    size = ChunkSize.fitting(220, 30, TOKENS, 256)
    chunks = split(extract.text, extract.sections, size, TOKENS)
    check_chunks(extract, chunks, size)
    assert len(chunks) > 50


def test_a_book_is_cut_where_a_reader_would_cut() -> None:
    """Of a book's chunks nearly all end with a sentence, most are well filled, and each knows its chapter."""
    book = write_book(7, words=60_000)
    extract = extract_markdown(book.text.encode())
    size = ChunkSize.fitting(220, 30, TOKENS, 256)
    chunks = split(extract.text, extract.sections, size, TOKENS)
    check_chunks(extract, chunks, size)
    ended = sum(chunk.text[-1] in ".!?" for chunk in chunks)
    assert ended / len(chunks) > 0.98
    filled = [n for n in TOKENS.count([chunk.text for chunk in chunks]) if n > size.tokens // 3]
    assert len(filled) / len(chunks) > 0.9
    overlapping = sum(b.start < a.end for a, b in itertools.pairwise(chunks))
    assert overlapping / len(chunks) > 0.5
    for fact in book.facts:
        holding = [chunk for chunk in chunks if fact.sentence in chunk.text]
        assert holding and all(c.heading == f"The Book > Chapter {fact.chapter}" for c in holding)


def test_the_model_never_cuts_a_chunk_off() -> None:
    """A chunk size beyond the model's is reduced to what the model reads, special tokens counted."""
    assert ChunkSize.fitting(8192, 4096, TOKENS, 256) == ChunkSize(254, 127)
    assert ChunkSize.fitting(100, 30, TOKENS, 256) == ChunkSize(100, 30)
