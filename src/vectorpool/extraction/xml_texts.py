"""XML: a line for each text and attribute, with the elements that lead to it. Declared entities are refused."""

from __future__ import annotations

from typing import Any
from xml.parsers import expat

from vectorpool.errors import DocumentTooCostly, DocumentUnreadable
from vectorpool.extraction.extracts import Composer, Extract

_DEPTH = 256
# The outermost elements name the heading, so that a chunk shows where it stands.
_HEADING_LEVELS = 2


class _Lines:
    """The handlers of the parser."""

    def __init__(self) -> None:
        self.composer = Composer()
        self._trail: list[str] = []
        self._text: list[str] = []
        self._lines: list[str] = []
        self._heading: str | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._flush_text()
        if len(self._trail) >= _DEPTH:
            raise DocumentTooCostly(f"The XML has more than {_DEPTH} elements in each other. Flatten it.")
        self._trail.append(name.rpartition(":")[2])
        if len(self._trail) <= _HEADING_LEVELS:
            self.flush()
            self._heading = " > ".join(self._trail)[:200]
        for key, value in attributes.items():
            if value.strip() and not key.startswith("xmlns"):
                self._lines.append(f"{self._trail[-1]} {key}: {' '.join(value.split())}")

    def end(self, name: str) -> None:
        self._flush_text()
        self._trail.pop()

    def text(self, data: str) -> None:
        self._text.append(data)

    def _flush_text(self) -> None:
        text = " ".join("".join(self._text).split())
        self._text.clear()
        if text:
            self._lines.append(f"{self._trail[-1]}: {text}" if self._trail else text)

    def flush(self) -> None:
        """End the section under way."""
        self.composer.add("\n".join(self._lines), heading=self._heading)
        self._lines.clear()


def parse(data: bytes, handlers: Any) -> None:
    """Call ``start``, ``end`` and ``text`` of ``handlers``. Raises DocumentUnreadable, DocumentTooCostly."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = handlers.start
    parser.EndElementHandler = handlers.end
    parser.CharacterDataHandler = handlers.text

    def refuse(*_: Any) -> None:
        raise DocumentTooCostly(
            "The XML declares entities, which can make a small document endless or name other files. Save it without."
        )

    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        if error.code == expat.errors.codes[expat.errors.XML_ERROR_NO_MEMORY]:
            raise MemoryError from None
        raise DocumentUnreadable(f"The document is not valid XML: {error}. Correct it, and put it again.") from None
    except (LookupError, ValueError) as error:
        raise DocumentUnreadable(f"The XML's encoding is not known ({error}). Save it as UTF-8.") from None


def extract_xml(data: bytes) -> Extract:
    """Return the texts and attributes of an XML document."""
    lines = _Lines()
    parse(data, lines)
    lines.flush()
    return lines.composer.extract()
