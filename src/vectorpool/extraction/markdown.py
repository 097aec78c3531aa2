"""Markdown: sections below headings, without front matter. Other formats are turned into Markdown first."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from vectorpool.extraction.extracts import Extract, Section
from vectorpool.extraction.plain_text import decode_text

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t\r\n]|$)")
_KEY = re.compile(r"[\w\"'-][^:=\n]{0,99}[:=]|#|\[")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*\r?\n?$")
_FRONT_MATTER: Final = {"---": ("---", "..."), "+++": ("+++",)}
_MAX_FRONT_MATTER_LINES: Final = 500
_MAX_HEADING: Final = 200


def _front_matter_end(lines: list[str]) -> int:
    """Return how many lines of YAML or TOML front matter there are; 0 if it is absent or never ends.

    It begins with a key or a comment: text between two rules is text.
    """
    closers = _FRONT_MATTER.get(lines[0].rstrip()) if lines else None
    if closers is None or len(lines) < 2 or not (_KEY.match(lines[1]) or lines[1].rstrip() in closers):
        return 0
    for number, line in enumerate(lines[1:_MAX_FRONT_MATTER_LINES], start=1):
        if line.rstrip() in closers:
            return number + 1
    return 0


class _Heading(msgspec.Struct, frozen=True):
    start: int
    end: int
    level: int
    title: str


def _is_paragraph(line: str) -> bool:
    """Return whether a line could be the text of a heading that a line of dashes underlines."""
    text = line.strip()
    return bool(text) and not line.startswith(("    ", "\t")) and text[0] not in "#>|-*+=`~"


def _atx_title(text: str) -> str:
    """Return a heading's title without the hashes that may close it: ``## Title ##``."""
    text = text.strip()
    bare = text.rstrip("#")
    return bare.rstrip() if not bare or bare[-1] in " \t" else text


def _headings(lines: list[str], first: int, offset: int) -> list[_Heading]:
    """Return the headings from line ``first`` on, which starts at character ``offset``; code blocks have none."""
    found: list[_Heading] = []
    fence: str | None = None
    before, before_at = "", offset
    for line in lines[first:]:
        mark = _FENCE.match(line)
        if fence is not None:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
            line_counts = False
        elif mark:
            fence, line_counts = mark[1], False
        else:
            line_counts = True
        if line_counts:
            if atx := _ATX.match(line):
                found.append(_Heading(offset, offset + len(line), len(atx[1]), _atx_title(line[atx.end() :])))
            elif _is_paragraph(before) and (setext := _SETEXT.match(line)):
                level = 1 if setext[1][0] == "=" else 2
                found.append(_Heading(before_at, offset + len(line), level, before.strip()))
                line_counts = False
        # A heading of one line is never underlined, and neither is a line of a code block.
        before, before_at = (line if line_counts else ""), offset
        offset += len(line)
    return found


def extract_markdown(data: bytes) -> Extract:
    """Return Markdown as it stands, without front matter, with a section for each heading that has text below it."""
    return sections_of_markdown(decode_text(data))


def sections_of_markdown(text: str, *, front_matter: bool = True) -> Extract:
    """Return Markdown with its sections, without its front matter, unless it can have none.

    A section begins with its heading's line. A heading directly followed by another belongs to the section of
    that next heading, so that no chunk is a bare title.
    """
    lines = _LINE.findall(text)
    first = _front_matter_end(lines) if front_matter else 0
    start = sum(len(line) for line in lines[:first])
    sections: list[Section] = []
    path: list[tuple[int, str]] = []
    heading: str | None = None
    body_at = start
    for mark in _headings(lines, first, start):
        if text[body_at : mark.start].strip():
            sections.append(Section(start, mark.start, heading))
            start = mark.start
        while path and path[-1][0] >= mark.level:
            path.pop()
        path.append((mark.level, mark.title))
        heading = " > ".join(title for _, title in path if title)[:_MAX_HEADING] or None
        body_at = mark.end
    sections.append(Section(start, len(text), heading))
    return Extract(text, tuple(sections))
