"""From a document's bytes to its text, by suffix or content type.

A Format turns bytes into an Extract: the text, and its sections. Offsets in chunks and metadata count characters of
that text. A format's ``version`` is part of a chunk's recipe: raise it when the same bytes give another text, and
documents are ingested again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from vectorpool.errors import UnsupportedFormat


class Section(msgspec.Struct, frozen=True):
    """Characters ``start`` up to, not including, ``end``, below a heading such as ``Guide > Install``."""

    start: int
    end: int
    heading: str | None = None


class Extract(msgspec.Struct, frozen=True):
    """A document's text and its sections, in order and disjoint. Text outside all sections is not ingested."""

    text: str
    sections: tuple[Section, ...]


class Format(msgspec.Struct, frozen=True):
    """A way to read documents. ``extract`` raises UnsupportedFormat, whose text says what is wrong with the bytes."""

    name: str
    version: int
    suffixes: tuple[str, ...]
    content_types: tuple[str, ...]
    extract: Callable[[bytes], Extract]


def decode_text(data: bytes) -> str:
    """Return UTF-8 text, without a byte order mark; raise UnsupportedFormat for any other bytes."""
    if (at := data.find(b"\0")) >= 0 or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UnsupportedFormat(
            f"The document is not text: byte {max(at, 0)} is none that UTF-8 text holds. Upload a text file, as UTF-8."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnsupportedFormat(
            f"The document is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}. Save it as UTF-8 and upload "
            "it again."
        ) from None


def extract_text(data: bytes) -> Extract:
    """Return plain text as one section."""
    text = decode_text(data)
    return Extract(text, (Section(0, len(text)),))


# --- Markdown ----------------------------------------------------------------------------------------

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
    """Return Markdown as it stands, without front matter, with a section for each heading that has text below it.

    A section begins with its heading's line. A heading directly followed by another belongs to the section of
    that next heading, so that no chunk is a bare title.
    """
    text = decode_text(data)
    lines = _LINE.findall(text)
    first = _front_matter_end(lines)
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


# --- The registry ------------------------------------------------------------------------------------

FORMATS: Final = (
    Format("markdown", 1, (".md", ".markdown", ".mdown"), ("text/markdown",), extract_markdown),
    Format("text", 1, (".txt", ".text", ".rst", ".log"), ("text/plain",), extract_text),
)

# Suffixes without a format here. Documents are served with these types.
_OTHER_CONTENT_TYPES: Final = {
    ".rst": "text/x-rst",
    ".pdf": "application/pdf",
    ".html": "text/html",
    ".htm": "text/html",
    ".csv": "text/csv",
    ".json": "application/json",
    ".xml": "application/xml",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}


def suffix_of(path: str) -> str:
    """Return the lower-case suffix of a path's last segment, with its dot, or an empty string."""
    name = path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if stem and dot else ""


def content_type_of(path: str) -> str:
    """Return the content type that a path's suffix stands for; ``application/octet-stream`` if it is unknown."""
    suffix = suffix_of(path)
    if suffix in _OTHER_CONTENT_TYPES:
        return _OTHER_CONTENT_TYPES[suffix]
    for entry in FORMATS:
        if suffix in entry.suffixes:
            kind = entry.content_types[0]
            return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
    return "application/octet-stream"


def format_of(path: str, content_type: str | None = None) -> Format:
    """Return the format of a document: by its suffix, else by its content type; raise UnsupportedFormat."""
    suffix = suffix_of(path)
    kind = (content_type or "").partition(";")[0].strip().lower()
    for entry in FORMATS:
        if suffix in entry.suffixes:
            return entry
    for entry in FORMATS:
        if kind in entry.content_types:
            return entry
    supported = ", ".join(suffix for entry in FORMATS for suffix in entry.suffixes)
    shown = f"The suffix {suffix!r}" if suffix else "A document without a suffix"
    raise UnsupportedFormat(
        f"{shown} is not supported. Supported are {supported}. Convert the document, or rename it if it is text.",
        extra={"supported": [suffix for entry in FORMATS for suffix in entry.suffixes]},
    )
