"""Real documents of every format become text that says where it stands; every bad one gets its own reason."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.document_files import BAD, FACT, GOOD, packed, pdf, tarred, word
from vectorpool.errors import InvalidRequest
from vectorpool.extraction.extracts import Extract, Section
from vectorpool.extraction.workshop import Workshop
from vectorpool.settings import Settings


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workshop() -> AsyncIterator[Workshop]:
    """The processes are started once for the module."""
    shop = Workshop(Settings())
    yield shop
    await shop.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


def section_of(extract: Extract, text: str) -> Section:
    """Return the section that holds a text."""
    at = extract.text.index(text)
    return next(s for s in extract.sections if s.start <= at and at + len(text) <= s.end)


@pytest.mark.parametrize("path", GOOD)
async def test_every_format_gives_its_text(workshop: Workshop, path: str) -> None:
    """The fact is found in one section, and its name says the format; so do the bytes where they show it."""
    data = GOOD[path]()
    extract = await workshop.read(path, data)
    assert section_of(extract, FACT)
    if path in ("a.pdf", "a.docx", "a.pptx", "a.xlsx", "a.odt", "a.rtf", "a.epub", "a.html", "a.zip", "a.tar.gz"):
        assert (await workshop.read("unnamed", data)).text == extract.text


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("a.pdf", {"page": 2}),
        ("a.pptx", {"page": 2, "heading": "Warranty"}),
        ("a.xlsx", {"sheet": "Warranty", "kind": "rows", "header": "Part | Sentence"}),
        ("a.docx", {"heading": "Guide > Warranty"}),
        ("a.odt", {"heading": "Warranty"}),
        ("a.epub", {"heading": "Warranty"}),
        ("a.html", {"heading": "Pumps > Warranty"}),
        ("a.md", {"heading": "Pumps > Warranty"}),
        ("a.csv", {"kind": "rows", "header": "Part | Sentence"}),
        ("a.json", {"heading": "pumps"}),
        ("a.xml", {"heading": "shop > warranty"}),
        ("a.eml", {"member": "pump.md", "heading": "Warranty > Pump"}),
        ("a.ipynb", {"heading": "Warranty"}),
        ("a.py", {"kind": "code"}),
        ("a.zip", {"member": "docs/pump.md", "heading": "Warranty"}),
        ("a.tar.gz", {"member": "docs/warranty.txt"}),
    ],
)
async def test_a_section_says_where_it_stands(workshop: Workshop, path: str, place: dict[str, object]) -> None:
    """Page, slide, sheet, heading trail, row names and file of an archive."""
    section = section_of(await workshop.read(path, GOOD[path]()), FACT)
    assert {name: getattr(section, name) for name in place} == place


async def test_what_is_in_a_page_and_is_no_text_is_left_out(workshop: Workshop) -> None:
    """Scripts, styles and what the library would invent are not in an HTML page's text."""
    text = (await workshop.read("a.html", GOOD["a.html"]())).text
    assert "alert" not in text and "color" not in text and "---" not in text and text.startswith("# Pumps")


async def test_cells_keep_what_is_in_them(workshop: Workshop) -> None:
    """A bar in a cell, a line break in a quoted cell: one line a row."""
    assert "\nPump | large | 99.5" in (await workshop.read("a.xlsx", GOOD["a.xlsx"]())).text
    assert "\nvalve | none; at all\n" in (await workshop.read("a.csv", GOOD["a.csv"]())).text


async def test_a_notebook_has_its_output_and_no_picture(workshop: Workshop) -> None:
    """Code below its heading, then what it printed."""
    extract = await workshop.read("a.ipynb", GOOD["a.ipynb"]())
    code = section_of(extract, "print(6 * 7)")
    assert (code.kind, code.heading) == ("code", "Warranty") and "\n42" in extract.text and "aGk=" not in extract.text


async def test_archives_in_archives_are_read_and_what_is_not_is_named(workshop: Workshop) -> None:
    """A file's label has the whole way to it; a picture is passed over with its reason."""
    extract = await workshop.read("a.tar.gz", GOOD["a.tar.gz"]())
    assert section_of(extract, "inside").member == "docs/inner.zip/x.txt"
    zipped = await workshop.read("a.zip", GOOD["a.zip"]())
    assert [(skipped.member, "OCR" in skipped.reason) for skipped in zipped.skipped] == [("logo.png", True)]
    assert section_of(zipped, "First page.").page == 1 and section_of(zipped, "First page.").member == "docs/a.pdf"


async def test_names_in_archives_are_labels_and_nothing_else(workshop: Workshop) -> None:
    """Ways up, absolute paths, control characters and backslashes do not survive."""
    names = {"../../etc/up.txt": b"one", "/root/abs.txt": b"two", "a\\b\n.txt": b"three", "x/" * 400 + "y.txt": b"four"}
    for data in (packed(dict(names)), tarred(names)):
        extract = await workshop.read("a.zip", data)
        labels = [section.member or "" for section in extract.sections]
        assert labels[:2] == ["etc/up.txt", "root/abs.txt"] and labels[2] == "a/b�.txt" and len(labels[3]) <= 300


@pytest.mark.parametrize("path", BAD)
async def test_every_bad_document_has_its_own_reason(workshop: Workshop, path: str) -> None:
    """The code says which kind, the sentence says what to do, and the next document is read."""
    make, code = BAD[path]
    with pytest.raises(InvalidRequest) as caught:
        await workshop.read(path, make())
    assert caught.value.code == code, caught.value.detail
    assert len(caught.value.detail) > 40 and "Traceback" not in caught.value.detail


async def test_a_damaged_page_or_member_does_not_hide_the_others(workshop: Workshop) -> None:
    """An archive with one broken document gives the others, and names the broken one."""
    extract = await workshop.read("a.zip", packed({"cut.pdf": pdf()[:300], "good.docx": word()}))
    assert section_of(extract, FACT).member == "good.docx"
    assert [skipped.member for skipped in extract.skipped] == ["cut.pdf"]


async def test_an_archive_of_unreadable_files_says_why(workshop: Workshop) -> None:
    """Nothing in it can be read: the reason of the first is the archive's."""
    with pytest.raises(InvalidRequest, match=r"No file of the archive can be read.*'x\.png'.*OCR"):
        await workshop.read("a.zip", packed({"x.png": b"\x89PNG", "y.mp3": b"ID3"}))
