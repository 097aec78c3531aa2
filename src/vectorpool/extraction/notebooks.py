"""Notebooks (ipynb): Markdown cells with their headings, code cells, and what they printed."""

from __future__ import annotations

from typing import Any

import msgspec

from vectorpool.errors import DocumentUnreadable
from vectorpool.extraction.extracts import Composer, Extract
from vectorpool.extraction.markdown import sections_of_markdown
from vectorpool.extraction.plain_text import decode_text

_NOT_ONE = "The document is not a notebook: {}. Save it again as .ipynb."


def _source(value: Any) -> str:
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""


def _printed(outputs: Any) -> str:
    """Return the text that a cell printed or returned; pictures and HTML are passed over."""
    found = []
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict):
            data = output.get("data")
            found.append(_source(output.get("text")))
            found.append(_source(data.get("text/plain")) if isinstance(data, dict) else "")
    return "\n".join(part.rstrip() for part in found if part.strip())


def extract_notebook(data: bytes) -> Extract:
    """Return a notebook's cells. Code stands below the last heading before it."""
    try:
        value = msgspec.json.decode(decode_text(data))
    except (msgspec.DecodeError, RecursionError) as error:
        raise DocumentUnreadable(_NOT_ONE.format(str(error)[:200].rstrip("."))) from None
    cells = value.get("cells") if isinstance(value, dict) else None
    if not isinstance(cells, list):
        raise DocumentUnreadable(_NOT_ONE.format("it has no cells"))
    composer, heading = Composer(), None
    for cell in cells:
        if not isinstance(cell, dict):
            continue
        source = _source(cell.get("source"))
        if cell.get("cell_type") == "markdown":
            extract = sections_of_markdown(source, front_matter=False)
            heading = extract.sections[-1].heading or heading
            composer.add_extract(extract)
        else:
            composer.add(source, heading=heading, kind="code" if cell.get("cell_type") == "code" else "prose")
            composer.add(_printed(cell.get("outputs")), heading=heading)
    return composer.extract()
