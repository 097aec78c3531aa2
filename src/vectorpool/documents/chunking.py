"""Text to chunks: pieces within a model's token limit, cut where the strategy of the pipeline cuts.

Promises, for any text, any tokenizer and every strategy but ``none``:

- every character of a section that is not white space is in some chunk, and chunks come in order;
- no chunk has more tokens than the limit, counted on the chunk's own text, unless it is a single character;
- a chunk never crosses a section, so never a Markdown heading; with ``tokens`` sections of one page are one;
- the same text, tokenizer and numbers give the same chunks;
- the time is linear in the length of the text, even if one line or one word has megabytes.

Method: the text is tokenized once, in pieces of bounded size. A chunk then takes as many tokens as fit and is cut back
to the last end of a paragraph in its second half, or else of a sentence in its second half, or else of a word. Without
any of them it is cut inside a word. The next chunk begins a few sentences or words earlier: the overlap. The other
strategies differ in where they cut: see ``_borders_of``. Rows repeat the names of their cells, which count as tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from vectorpool.embedding import Tokenizer
from vectorpool.errors import LimitExceeded
from vectorpool.extraction.extracts import Kind, Section
from vectorpool.extraction.markdown import sections_of_markdown
from vectorpool.settings import ChunkStrategy

# Part of a recipe: raise it when a change of the code makes the same text give other chunks.
VERSION: Final = 2

# What auto means for a section.
_BY_KIND: Final[dict[Kind, ChunkStrategy]] = {"prose": "markdown", "rows": "rows", "code": "code"}

# Characters tokenized in one piece, and pieces in one call.
_PIECE: Final = 16_384
_PIECES_A_CALL: Final = 64
# A token of prose is 4 to 5 characters. A very long word may be a single token, so characters are bounded too.
_CHARACTERS_A_TOKEN: Final = 12
_SHRINK: Final = 0.85

_PARAGRAPH: Final = re.compile(r"\n[ \t\r\f\v]*\n\s*")
# The end of a sentence: its mark and closing quotes, then white space; or a mark of a script without spaces.
_SENTENCE: Final = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]+[」』”’]*\s*")
_WORD: Final = re.compile(r"\s+")
_LINE: Final = re.compile(r"\n")
# In source code: an empty line, behind which something begins at the margin.
_DEFINITION: Final = re.compile(r"\n[ \t\r]*\n(?=[^\s})\]])")

_Positions = npt.NDArray[np.int64]


class Chunk(msgspec.Struct, frozen=True):
    """``text`` is characters ``start`` up to ``end`` of the source, and begins and ends with no white space.

    A chunk of rows has the names of their cells before that. Heading, page, sheet and member are its section's.
    """

    text: str
    start: int
    end: int
    heading: str | None
    page: int | None = None
    sheet: str | None = None
    member: str | None = None


class ChunkSize(msgspec.Struct, frozen=True):
    """Most tokens of a chunk, without special ones, and the most of them that repeat the end of the chunk before."""

    tokens: int
    overlap: int

    @classmethod
    def fitting(cls, chunk_tokens: int, overlap_tokens: int, tokenizer: Tokenizer, max_tokens: int) -> ChunkSize:
        """Return the size that was asked for, made smaller if the model would truncate such a chunk."""
        tokens = max(1, min(chunk_tokens, max_tokens - tokenizer.special_tokens))
        # At least half of a chunk is new text, so there are at most twice as many chunks as without an overlap.
        return cls(tokens, min(overlap_tokens, tokens // 2))

    def recipe(self, strategy: ChunkStrategy) -> str:
        """Return the part of a stored recipe that describes chunking."""
        return f"chunks/{VERSION} {strategy} tokens={self.tokens} overlap={self.overlap}"


def _ends(pattern: re.Pattern[str], text: str, start: int, end: int) -> _Positions:
    found = [match.end() for match in pattern.finditer(text, start, end)]
    return np.array(found, dtype=np.int64)


def _token_starts(text: str, start: int, end: int, tokenizer: Tokenizer) -> _Positions:
    """Return where each token starts, ascending. Pieces end at white space where there is some."""
    pieces: list[tuple[int, str]] = []
    starts: list[_Positions] = []
    at = start

    def flush() -> None:
        spans = tokenizer.spans([piece for _, piece in pieces])
        starts.extend(found[:, 0] + offset for (offset, _), found in zip(pieces, spans, strict=True))
        pieces.clear()

    while at < end:
        stop = min(at + _PIECE, end)
        if stop < end:
            space = max(text.rfind(" ", at + _PIECE // 2, stop), text.rfind("\n", at + _PIECE // 2, stop))
            stop = space + 1 if space > 0 else stop
        pieces.append((at, text[at:stop]))
        at = stop
        if len(pieces) == _PIECES_A_CALL:
            flush()
    if pieces:
        flush()
    if not starts:
        return np.empty(0, dtype=np.int64)
    # Byte-level tokenizers give several tokens of one character the same place, never an earlier one.
    return np.maximum.accumulate(np.concatenate(starts))


class _Borders(msgspec.Struct, frozen=True):
    """Where a strategy cuts: positions by preference, each with whether only a chunk's second half counts.

    ``overlaps`` are where a chunk may begin in the one before.
    """

    ends: tuple[tuple[_Positions, bool], ...]
    overlaps: tuple[_Positions, ...]


def _borders_of(strategy: ChunkStrategy, text: str, section: Section) -> _Borders:
    def ends(pattern: re.Pattern[str]) -> _Positions:
        return _ends(pattern, text, section.start, section.end)

    words = ends(_WORD)
    match strategy:
        case "tokens":
            return _Borders(((words, False),), (words,))
        case "sentences":
            sentences = ends(_SENTENCE)
            return _Borders(((sentences, False), (words, False)), (sentences,))
        case "rows":
            return _Borders(((ends(_LINE), False), (words, False)), ())
        case "code":
            levels = ((ends(_DEFINITION), True), (ends(_PARAGRAPH), True), (ends(_LINE), False), (words, False))
            return _Borders(levels, ())
        case _:
            sentences = ends(_SENTENCE)
            return _Borders(((ends(_PARAGRAPH), True), (sentences, True), (words, False)), (sentences, words))


class _SectionChunker:
    """The cuts of one section."""

    def __init__(
        self, text: str, section: Section, size: ChunkSize, tokenizer: Tokenizer, strategy: ChunkStrategy
    ) -> None:
        self._text = text
        self._section = section
        self._tokenizer = tokenizer
        self._header = ""
        if strategy == "rows" and section.header is not None:
            taken = tokenizer.count([section.header])[0]
            # Names that take more than half of a chunk are not repeated.
            if taken <= size.tokens // 2:
                self._header = section.header + "\n"
                size = ChunkSize(size.tokens - taken, 0)
        self._size = size
        self._max_characters = size.tokens * _CHARACTERS_A_TOKEN
        self._tokens = _token_starts(text, section.start, section.end, tokenizer)
        self._borders = _borders_of(strategy, text, section)

    def chunks(self) -> list[Chunk]:
        found: list[Chunk] = []
        start = covered = self._skip_blank(self._section.start)
        while covered < self._section.end:
            end = self._end(start, covered, self._max_characters)
            if self._count(start, end) > self._size.tokens:
                # The chunk's own text has more tokens than its part of the whole: a word was cut, or the tokenizer
                # looks across words. That is rare, so the chunk is made smaller and loses its overlap.
                start, end = covered, self._shrink(covered)
            chunk = self._chunk(start, end)
            if chunk is not None:
                found.append(chunk)
            covered = self._skip_blank(end)
            start = covered if covered >= self._section.end else self._overlap(start, end, covered)
        return found

    def _skip_blank(self, at: int) -> int:
        match = _WORD.match(self._text, at, self._section.end)
        return match.end() if match else at

    def _count(self, start: int, end: int) -> int:
        return self._tokenizer.count([self._text[start:end]])[0]

    def _shrink(self, start: int) -> int:
        end = self._end(start, start, self._max_characters)
        while end - start > 1 and self._count(start, end) > self._size.tokens:
            end = self._end(start, start, max(1, int((end - start) * _SHRINK)))
        return end

    def _end(self, start: int, covered: int, max_characters: int) -> int:
        """Return where the chunk from ``start`` ends: beyond ``covered``, and within both bounds."""
        limit = min(self._section.end, start + max_characters)
        token = int(np.searchsorted(self._tokens, start)) + self._size.tokens
        if token < len(self._tokens):
            limit = min(limit, int(self._tokens[token]))
        limit = max(limit, covered + 1)
        if limit >= self._section.end:
            return self._section.end
        half = max(covered + 1, start + (limit - start) // 2)
        for borders, is_late in self._borders.ends:
            if (border := _last_within(borders, half if is_late else covered + 1, limit)) is not None:
                return border
        return limit

    def _overlap(self, start: int, end: int, covered: int) -> int:
        """Return where the chunk after ``start``..``end`` begins: at most the overlap before ``covered``."""
        token = int(np.searchsorted(self._tokens, covered)) - self._size.overlap
        if self._size.overlap == 0 or token < 0:
            return covered
        least = max(int(self._tokens[token]), start + 1, covered - self._max_characters // 4)
        for borders in self._borders.overlaps:
            index = int(np.searchsorted(borders, least))
            if index < len(borders) and borders[index] < end:
                return int(borders[index])
        return covered

    def _chunk(self, start: int, end: int) -> Chunk | None:
        text = self._text[start:end]
        stripped = text.strip()
        if not stripped:
            return None
        start += len(text) - len(text.lstrip())
        section = self._section
        # The first rows begin with the names themselves.
        above = self._header if start > section.start + len(section.header or "") else ""
        return _chunk_of(section, above + stripped, start, start + len(stripped))


def _last_within(borders: _Positions, least: int, most: int) -> int | None:
    """Return the last border of ``least`` .. ``most``, or None."""
    index = int(np.searchsorted(borders, most, side="right")) - 1
    return int(borders[index]) if index >= 0 and borders[index] >= least else None


def _chunk_of(section: Section, text: str, start: int, end: int) -> Chunk:
    return Chunk(text, start, end, section.heading, section.page, section.sheet, section.member)


def _joined(sections: Iterable[Section], *, pages: bool) -> Iterator[Section]:
    """Yield sections with those that follow each other in one file as one; ``pages``: also those of several pages."""

    def place(section: Section) -> tuple[object, ...]:
        return (section.member,) if pages else (section.member, section.page, section.sheet)

    for _, group in groupby(sections, place):
        members = list(group)
        yield msgspec.structs.replace(members[0], end=members[-1].end)


def _with_headings(text: str, sections: Iterable[Section]) -> Iterator[Section]:
    """Yield sections, and in place of prose that has no heading the sections below its Markdown headings."""
    for section in sections:
        if section.kind != "prose" or section.heading is not None:
            yield section
            continue
        for found in sections_of_markdown(text[section.start : section.end], front_matter=False).sections:
            start, end = section.start + found.start, section.start + found.end
            yield msgspec.structs.replace(section, start=start, end=end, heading=found.heading)


def _whole(text: str, sections: Iterable[Section], most: int, tokenizer: Tokenizer) -> list[Chunk]:
    """Return each file as one chunk. Raises LimitExceeded if the model would not read all of it."""
    chunks = []
    for section in _joined(sections, pages=True):
        raw = text[section.start : section.end]
        stripped = raw.strip()
        if not stripped:
            continue
        # What is certainly too long need not be counted.
        if len(stripped) > most * _CHARACTERS_A_TOKEN or (count := tokenizer.count([stripped])[0]) > most:
            shown = f"{len(stripped)} characters" if len(stripped) > most * _CHARACTERS_A_TOKEN else f"{count} tokens"
            raise LimitExceeded(
                f"The strategy none makes one record of a document, and this one has {shown}; the model reads {most} "
                "tokens. Choose another strategy, such as tokens.",
                extra={"limit": most},
            )
        start = section.start + len(raw) - len(raw.lstrip())
        chunks.append(_chunk_of(section, stripped, start, start + len(stripped)))
    return chunks


def split(
    text: str,
    sections: Sequence[Section],
    size: ChunkSize,
    tokenizer: Tokenizer,
    strategy: ChunkStrategy = "auto",
    *,
    most_tokens: int | None = None,
) -> list[Chunk]:
    """Return the chunks of a text, in order. Blocks for about a second a megabyte: call it in a thread.

    ``auto`` cuts each section by its kind: rows and code by themselves, prose at paragraphs and sentences.
    ``most_tokens`` is what the model reads, for ``none``, which raises LimitExceeded above it.
    """
    found: Iterable[Section] = sections
    match strategy:
        case "none":
            return _whole(text, sections, most_tokens or size.tokens, tokenizer)
        case "tokens":
            found = _joined(sections, pages=False)
        case "markdown":
            found = _with_headings(text, sections)
    return [
        chunk
        for section in found
        for chunk in _SectionChunker(
            text, section, size, tokenizer, _BY_KIND[section.kind] if strategy == "auto" else strategy
        ).chunks()
    ]
