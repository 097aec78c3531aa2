"""What the library kreuzberg reads: DOCX, XLSX, ODT, RTF, EPUB and HTML. This module alone imports it.

All but workbooks come as Markdown, whose headings become sections.
"""

from __future__ import annotations

import io
import re
import zipfile
from contextlib import suppress
from typing import Final

from vectorpool.errors import DocumentEncrypted, DocumentUnreadable, ExtractionNotInstalled
from vectorpool.extraction.extracts import Composer, Extract
from vectorpool.extraction.formats import BY_NAME
from vectorpool.extraction.markdown import sections_of_markdown
from vectorpool.extraction.pdf import ENCRYPTED, NOT_INSTALLED
from vectorpool.extraction.tables import add_rows

try:
    import kreuzberg
except ImportError:
    kreuzberg = None

# What the library writes before the text of an HTML page or a book.
_INVENTED: Final = re.compile(r"\A---\n(?:.*\n)*?(?:---\n|\n(?=# ))")
_ENCRYPTED: Final = re.compile(r"password|encrypt", re.IGNORECASE)
# A picture is worth the words that stand for it, and no address.
_PICTURE: Final = re.compile(r"!\[([^\]\n]*)\]\([^)\s]*(?: \"[^\"\n]*\")?\)")
_MANIFEST_BYTES: Final = 1024**2
_CELL: Final = re.compile(r"(?<!\\)\|")


def _as_markdown(name: str, data: bytes) -> str:
    if kreuzberg is None:
        raise ExtractionNotInstalled(NOT_INSTALLED.format(name))
    config = kreuzberg.ExtractionConfig(
        # Nothing is written to disk, no picture is read, and a document has one core.
        use_cache=False,
        disable_ocr=True,
        concurrency=kreuzberg.ConcurrencyConfig(max_threads=1),
        output_format="markdown",
    )
    try:
        content: str = kreuzberg.extract_bytes_sync(data, BY_NAME[name].content_types[0], config).content
    except kreuzberg.KreuzbergError as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        if _ENCRYPTED.search(reason):
            raise DocumentEncrypted(ENCRYPTED) from None
        raise DocumentUnreadable(
            f"The document cannot be read as {name}: {reason}. Open it, save it again, and put it again."
        ) from None
    return _PICTURE.sub(r"\1", content)


def extract_docx(data: bytes) -> Extract:
    """Return a Word document."""
    return sections_of_markdown(_as_markdown("docx", data), front_matter=False)


def _is_encrypted(data: bytes) -> bool:
    """Whether a package's list of files says that they are encrypted. The library says that they are damaged."""
    broken = (zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError, RuntimeError, NotImplementedError)
    with (
        suppress(*broken),
        zipfile.ZipFile(io.BytesIO(data)) as archive,
        archive.open("META-INF/manifest.xml") as file,
    ):
        return b"encryption-data" in file.read(_MANIFEST_BYTES)
    return False


def extract_odt(data: bytes) -> Extract:
    """Return an OpenDocument text."""
    if _is_encrypted(data):
        raise DocumentEncrypted(ENCRYPTED)
    return sections_of_markdown(_as_markdown("odt", data), front_matter=False)


def extract_rtf(data: bytes) -> Extract:
    """Return a Rich Text document."""
    return sections_of_markdown(_as_markdown("rtf", data), front_matter=False)


def extract_epub(data: bytes) -> Extract:
    """Return a book."""
    return sections_of_markdown(_INVENTED.sub("", _as_markdown("epub", data)), front_matter=False)


def extract_html(data: bytes) -> Extract:
    """Return a page's text, without scripts and styles."""
    return sections_of_markdown(_INVENTED.sub("", _as_markdown("html", data)), front_matter=False)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELL.split(line.strip().removeprefix("|").removesuffix("|"))]


def extract_xlsx(data: bytes) -> Extract:
    """Return a workbook, a section a sheet, a line a row."""
    composer = Composer()
    sheet: str | None = None
    rows: list[list[str]] = []
    for line in _as_markdown("xlsx", data).split("\n"):
        if line.startswith("## "):
            add_rows(composer, rows, sheet=sheet)
            sheet, rows = line.removeprefix("## ").strip(), []
        elif line.startswith("|"):
            cells = _cells(line)
            # The line that Markdown has below a header.
            if not (len(rows) == 1 and all(re.fullmatch(r":?-{3,}:?", cell) for cell in cells)):
                rows.append(cells)
        elif line.strip():
            rows.append([line.strip()])
    add_rows(composer, rows, sheet=sheet)
    return composer.extract()
