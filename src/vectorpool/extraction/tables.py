"""CSV and TSV: a line a row, its cells separated by a bar, and the names of the cells kept for every chunk."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from vectorpool.bounds import EXTRACTED_CHARACTERS
from vectorpool.errors import DocumentTooCostly, DocumentUnreadable
from vectorpool.extraction.extracts import Composer, Extract
from vectorpool.extraction.plain_text import decode_text

_SNIFFED = 64 * 1024
_DELIMITERS = ",;\t|"


def row_text(cells: Iterable[str]) -> str:
    """Return a row as one line."""
    return " | ".join(" ".join(cell.split()) for cell in cells)


def _is_header(cells: list[str]) -> bool:
    """Whether a first row names the cells: each of them has a text, and none is a number."""

    def is_name(cell: str) -> bool:
        return bool(cell.strip()) and not cell.strip().lstrip("+-").replace(".", "").replace(",", "").isdigit()

    return len(cells) > 1 and all(map(is_name, cells))


def add_rows(composer: Composer, rows: Iterable[list[str]], *, sheet: str | None = None) -> None:
    """Append a table as one section. Blank rows are passed over."""
    lines: list[str] = []
    header: str | None = None
    characters = 0
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        line = row_text(cells)
        if not lines and header is None and _is_header(cells):
            header = line
        lines.append(line)
        characters += len(line) + 1
        if characters > EXTRACTED_CHARACTERS:
            raise DocumentTooCostly(
                f"The table has more than {EXTRACTED_CHARACTERS} characters. Split it into several documents."
            )
    if lines:
        composer.add("\n".join(lines), sheet=sheet, kind="rows", header=header)


def _extract(data: bytes, delimiter: str | None) -> Extract:
    text = decode_text(data)
    if delimiter is None:
        try:
            delimiter = csv.Sniffer().sniff(text[:_SNIFFED], _DELIMITERS).delimiter
        except csv.Error:
            # One column, or a mixture: what the name of the format says.
            delimiter = ","
    csv.field_size_limit(EXTRACTED_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    composer = Composer()
    try:
        add_rows(composer, reader)
    except csv.Error as error:
        raise DocumentUnreadable(
            f"The table cannot be read: line {reader.line_num}: {error}. Correct it, or save it again as CSV."
        ) from None
    return composer.extract()


def extract_csv(data: bytes) -> Extract:
    """Return a table; its delimiter is found: comma, semicolon, tab or bar."""
    return _extract(data, None)


def extract_tsv(data: bytes) -> Extract:
    """Return a table whose cells are separated by tabs."""
    return _extract(data, "\t")
