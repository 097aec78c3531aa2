"""Presentations (PPTX): each slide is a page, with its title as heading and its notes below it."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from xml.parsers import expat

from vectorpool.bounds import EXTRACTED_MEMBER_BYTES
from vectorpool.errors import DocumentTooCostly, DocumentUnreadable
from vectorpool.extraction.extracts import Composer, Extract
from vectorpool.extraction.xml_texts import parse

_NOT_ONE = "The presentation cannot be read: {}. Save it again as .pptx."
_NUMBER = re.compile(r"(\d+)\.xml$")


class _Shapes:
    """Collects the paragraphs of each shape, and whether the shape is a title or only counts slides."""

    def __init__(self) -> None:
        self.title = ""
        self.paragraphs: list[str] = []
        self._placeholder: str | None = None
        self._shape: list[str] = []
        self._run: list[str] | None = None
        self._paragraph: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        kind = name.rpartition(":")[2]
        if kind == "sp":
            self._placeholder, self._shape = None, []
        elif kind == "ph":
            self._placeholder = attributes.get("type", "body")
        elif kind == "p" and name.startswith("a:"):
            self._paragraph = []
        elif kind == "t":
            self._run = []
        elif kind in ("br", "tab"):
            self._paragraph.append(" ")

    def end(self, name: str) -> None:
        kind = name.rpartition(":")[2]
        if kind == "t" and self._run is not None:
            self._paragraph.append("".join(self._run))
            self._run = None
        elif kind == "p" and name.startswith("a:"):
            text = " ".join("".join(self._paragraph).split())
            if text:
                self._shape.append(text)
        elif kind in ("sp", "graphicFrame"):
            if self._placeholder in ("title", "ctrTitle") and not self.title:
                self.title = " ".join(self._shape)
            elif self._placeholder not in ("sldNum", "dt", "ftr", "hdr"):
                self.paragraphs += self._shape
            self._placeholder, self._shape = None, []

    def text(self, data: str) -> None:
        if self._run is not None:
            self._run.append(data)


class _Links:
    """The parts that a part names: id, kind and target."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str, str]] = {}

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name.rpartition(":")[2] == "Relationship" and attributes.get("TargetMode") != "External":
            kind = attributes.get("Type", "").rpartition("/")[2]
            self.found[attributes.get("Id", "")] = kind, attributes.get("Target", "")

    def end(self, name: str) -> None: ...

    def text(self, data: str) -> None: ...


class _Order:
    """The ids of the slides, in the order in which they are shown."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name.rpartition(":")[2] == "sldId" and "r:id" in attributes:
            self.ids.append(attributes["r:id"])

    def end(self, name: str) -> None: ...

    def text(self, data: str) -> None: ...


class _Package:
    """A presentation's parts."""

    def __init__(self, data: bytes) -> None:
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise DocumentUnreadable(_NOT_ONE.format(error)) from None

    def read(self, name: str) -> bytes | None:
        """Return a part, or None if there is none. Raises DocumentTooCostly, DocumentUnreadable."""
        try:
            with self._archive.open(name) as file:
                data = file.read(EXTRACTED_MEMBER_BYTES + 1)
        except KeyError:
            return None
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, expat.error) as error:
            raise DocumentUnreadable(_NOT_ONE.format(error)) from None
        if len(data) > EXTRACTED_MEMBER_BYTES:
            raise DocumentTooCostly(
                f"A slide of the presentation has more than {EXTRACTED_MEMBER_BYTES} bytes. Split the presentation."
            )
        return data

    def links(self, part: str) -> dict[str, tuple[str, str]]:
        """Return what a part names, with targets as names of parts."""
        folder, _, name = part.rpartition("/")
        data = self.read(f"{folder}/_rels/{name}.rels")
        links = _Links()
        if data is not None:
            parse(data, links)
        return {
            key: (kind, posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/"))
            for key, (kind, target) in links.found.items()
        }

    def slides(self) -> list[str]:
        """Return the names of the slides in the order in which they are shown; by number if that is not said."""
        order = _Order()
        presentation = self.read("ppt/presentation.xml")
        if presentation is not None:
            parse(presentation, order)
        links = self.links("ppt/presentation.xml")
        named = [links[key][1] for key in order.ids if links.get(key, ("", ""))[0] == "slide"]
        if named:
            return named
        found = [name for name in self._archive.namelist() if re.fullmatch(r"ppt/slides/slide\d+\.xml", name)]
        return sorted(found, key=lambda name: int(_NUMBER.findall(name)[0]))


def extract_slides(data: bytes) -> Extract:
    """Return the slides of a presentation, hidden ones included."""
    package, composer = _Package(data), Composer()
    for number, name in enumerate(package.slides(), start=1):
        part = package.read(name)
        if part is None:
            continue
        shapes = _Shapes()
        parse(part, shapes)
        paragraphs = ([shapes.title] if shapes.title else []) + shapes.paragraphs
        for kind, target in package.links(name).values():
            notes = package.read(target) if kind == "notesSlide" else None
            if notes is not None:
                spoken = _Shapes()
                parse(notes, spoken)
                paragraphs += spoken.paragraphs
        composer.add("\n\n".join(paragraphs), heading=shapes.title[:200] or None, page=number)
    return composer.extract()
