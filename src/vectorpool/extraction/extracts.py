"""A document's text and its sections, and how a reader composes them."""

from __future__ import annotations

from typing import Literal

import msgspec

from vectorpool.bounds import EXTRACTED_CHARACTERS
from vectorpool.errors import DocumentEmpty, DocumentTooCostly, DocumentWithoutText

Kind = Literal["prose", "rows", "code"]


class Section(msgspec.Struct, frozen=True, omit_defaults=True):
    """Characters ``start`` up to, not including, ``end``, below a heading such as ``Guide > Install``.

    ``page`` counts from 1: a page of a PDF, a slide. ``sheet`` is a sheet of a workbook, ``member`` a file of an
    archive or an attachment. In ``rows`` each line is a row, and ``header`` the names of its cells.
    """

    start: int
    end: int
    heading: str | None = None
    page: int | None = None
    sheet: str | None = None
    member: str | None = None
    kind: Kind = "prose"
    header: str | None = None


class Skipped(msgspec.Struct, frozen=True):
    """A file of an archive that was passed over, and why."""

    member: str
    reason: str


class Extract(msgspec.Struct, frozen=True, omit_defaults=True):
    """A document's text and its sections, in order and disjoint. Text outside all sections is not ingested."""

    text: str
    sections: tuple[Section, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def is_blank(self) -> bool:
        """Whether no section has anything but white space."""
        return not any(self.text[section.start : section.end].strip() for section in self.sections)


def refuse_empty(data: bytes) -> None:
    """Raise DocumentEmpty if there are no bytes but white space."""
    if not data or data.isspace():
        raise DocumentEmpty("The document is empty. Put it again with its text, or delete it.")


def refuse_blank(extract: Extract) -> Extract:
    """Return an extract that has text. Raises DocumentWithoutText."""
    if extract.is_blank:
        raise DocumentWithoutText(
            "The document has no text: only pictures, empty pages or markup. Put one with text, or delete it."
        )
    return extract


class Composer:
    """Puts sections behind each other. Raises DocumentTooCostly above ``EXTRACTED_CHARACTERS``."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._sections: list[Section] = []
        self._skipped: list[Skipped] = []
        self._at = 0

    def _append(self, text: str) -> int:
        """Append text, and return where it starts."""
        start = self._at
        self._at += len(text)
        if self._at > EXTRACTED_CHARACTERS:
            raise DocumentTooCostly(f"The document has more than {EXTRACTED_CHARACTERS} characters of text. Split it.")
        self._parts.append(text)
        return start

    def add(
        self,
        text: str,
        *,
        heading: str | None = None,
        page: int | None = None,
        sheet: str | None = None,
        kind: Kind = "prose",
        header: str | None = None,
    ) -> None:
        """Append a section, unless it is blank, and an empty line behind it."""
        if not text.strip():
            return
        start = self._append(text)
        self._sections.append(
            Section(start, start + len(text), heading, page=page, sheet=sheet, kind=kind, header=header)
        )
        self._append("\n\n")

    def add_extract(
        self,
        extract: Extract,
        *,
        member: str | None = None,
        page: int | None = None,
        sheet: str | None = None,
        above: str | None = None,
    ) -> None:
        """Append what another reader made; ``above`` is the heading that its own headings are below.

        ``member`` names the file that it came from.
        """
        start = self._append(extract.text)
        for section in extract.sections:
            self._sections.append(
                msgspec.structs.replace(
                    section,
                    start=start + section.start,
                    end=start + section.end,
                    heading=" > ".join(part for part in (above, section.heading) if part) or None,
                    member="/".join(part for part in (member, section.member) if part) or None,
                    page=section.page or page,
                    sheet=section.sheet or sheet,
                )
            )
        for skipped in extract.skipped:
            self.skip("/".join(part for part in (member, skipped.member) if part), skipped.reason)
        self._append("\n\n")

    def skip(self, member: str, reason: str) -> None:
        """Note a file that was passed over; the first hundred are kept."""
        if len(self._skipped) < 100:
            self._skipped.append(Skipped(member, reason))

    def extract(self) -> Extract:
        """Return everything."""
        return Extract("".join(self._parts), tuple(self._sections), tuple(self._skipped))
