"""Text to chunks: pieces within a model's token limit, cut at the ends of paragraphs, sentences or words.

Promises, for any text and any tokenizer:

- every character of a section that is not white space is in some chunk, and chunks come in order;
- no chunk has more tokens than the limit, counted on the chunk's own text, unless it is a single character;
- a chunk never crosses a section, so never a Markdown heading;
- the same text, tokenizer and numbers give the same chunks;
- the time is linear in the length of the text, even if one line or one word has megabytes.

Method: the text is tokenized once, in pieces of bounded size. A chunk then takes as many tokens as fit and is cut back
to the last end of a paragraph in its second half, or else of a sentence in its second half, or else of a word. Without
any of them it is cut inside a word. The next chunk begins a few sentences or words earlier: the overlap.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from vectorpool.documents.formats import Section
from vectorpool.embedding import Tokenizer

# Part of a recipe: raise it when a change of the code makes the same text give other chunks.
VERSION: Final = 1

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

_Positions = npt.NDArray[np.int64]


class Chunk(msgspec.Struct, frozen=True):
    """``text`` is characters ``start`` up to ``end`` of the source, and begins and ends with no white space."""

    text: str
    start: int
    end: int
    heading: str | None


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

    def recipe(self) -> str:
        """Return the part of a stored recipe that describes chunking."""
        return f"chunks/{VERSION} tokens={self.tokens} overlap={self.overlap}"


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


class _SectionChunker:
    """The cuts of one section."""

    def __init__(self, text: str, section: Section, size: ChunkSize, tokenizer: Tokenizer) -> None:
        self._text = text
        self._section = section
        self._size = size
        self._tokenizer = tokenizer
        self._max_characters = size.tokens * _CHARACTERS_A_TOKEN
        self._tokens = _token_starts(text, section.start, section.end, tokenizer)
        self._paragraphs = _ends(_PARAGRAPH, text, section.start, section.end)
        self._sentences = _ends(_SENTENCE, text, section.start, section.end)
        self._words = _ends(_WORD, text, section.start, section.end)

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
        for borders, least in ((self._paragraphs, half), (self._sentences, half), (self._words, covered + 1)):
            if (border := _last_within(borders, least, limit)) is not None:
                return border
        return limit

    def _overlap(self, start: int, end: int, covered: int) -> int:
        """Return where the chunk after ``start``..``end`` begins: at most the overlap before ``covered``."""
        token = int(np.searchsorted(self._tokens, covered)) - self._size.overlap
        if self._size.overlap == 0 or token < 0:
            return covered
        least = max(int(self._tokens[token]), start + 1, covered - self._max_characters // 4)
        for borders in (self._sentences, self._words):
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
        return Chunk(stripped, start, start + len(stripped), self._section.heading)


def _last_within(borders: _Positions, least: int, most: int) -> int | None:
    """Return the last border of ``least`` .. ``most``, or None."""
    index = int(np.searchsorted(borders, most, side="right")) - 1
    return int(borders[index]) if index >= 0 and borders[index] >= least else None


def split(text: str, sections: tuple[Section, ...], size: ChunkSize, tokenizer: Tokenizer) -> list[Chunk]:
    """Return the chunks of a text, in order. Blocks for about a second a megabyte: call it in a thread."""
    return [chunk for section in sections for chunk in _SectionChunker(text, section, size, tokenizer).chunks()]
