"""A reader for each format. ``read`` is all that the process without rights does with a document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vectorpool.bounds import ARCHIVE_DEPTH
from vectorpool.errors import DocumentTooCostly
from vectorpool.extraction import archives, json_values, mail, markdown, notebooks, office, plain_text, slides, tables
from vectorpool.extraction.extracts import Extract, refuse_blank, refuse_empty
from vectorpool.extraction.formats import recognise
from vectorpool.extraction.pdf import extract_pdf
from vectorpool.extraction.xml_texts import extract_xml

Reader = Callable[[bytes], Extract]

READERS: Final[dict[str, Reader]] = {
    "markdown": markdown.extract_markdown,
    "text": plain_text.extract_text,
    "code": plain_text.extract_code,
    "csv": tables.extract_csv,
    "tsv": tables.extract_tsv,
    "json": json_values.extract_json,
    "jsonl": json_values.extract_json_lines,
    "xml": extract_xml,
    "notebook": notebooks.extract_notebook,
    "pptx": slides.extract_slides,
    "pdf": extract_pdf,
    "docx": office.extract_docx,
    "xlsx": office.extract_xlsx,
    "odt": office.extract_odt,
    "rtf": office.extract_rtf,
    "epub": office.extract_epub,
    "html": office.extract_html,
}


def read(path: str, data: bytes, content_type: str | None = None) -> Extract:
    """Return a document's text; never a blank one. Raises an InvalidRequest that says why it cannot be read."""
    return _read(path, data, content_type, 0, archives.Budget())


def _read(path: str, data: bytes, content_type: str | None, depth: int, budget: archives.Budget) -> Extract:
    refuse_empty(data)

    def read_member(name: str, member: bytes) -> Extract:
        if depth >= ARCHIVE_DEPTH:
            raise DocumentTooCostly(f"More than {ARCHIVE_DEPTH} archives are inside each other. Unpack the outer ones.")
        return _read(name, member, None, depth + 1, budget)

    name = recognise(path, data, content_type).name
    match name:
        case "zip":
            extract = archives.extract_zip(data, read_member, budget)
        case "tar":
            extract = archives.extract_tar(data, read_member, budget)
        case "eml":
            extract = mail.extract_mail(data, read_member)
        case _:
            extract = READERS[name](data)
    return refuse_blank(extract)
