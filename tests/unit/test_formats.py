"""From bytes to text and sections, by suffix or content type."""

from __future__ import annotations

import pytest

from vectorpool.errors import UnsupportedFormat
from vectorpool.extraction.formats import content_type_of, format_of, version_of
from vectorpool.extraction.markdown import extract_markdown
from vectorpool.extraction.plain_text import extract_text


def sections_of(text: str) -> list[tuple[str | None, str]]:
    """Return each section's heading and its text, stripped."""
    extract = extract_markdown(text.encode())
    return [(s.heading, extract.text[s.start : s.end].strip()) for s in extract.sections]


@pytest.mark.parametrize(
    ("path", "name"),
    [("a.md", "markdown"), ("b/c.MARKDOWN", "markdown"), ("a.txt", "text"), ("x.y.rst", "text"), (".md.txt", "text")],
)
def test_a_suffix_names_the_format(path: str, name: str) -> None:
    """The last suffix counts, in any case."""
    assert (entry := format_of(path)) is not None and entry.name == name


def test_a_content_type_names_the_format_of_a_path_without_a_known_suffix() -> None:
    """The suffix is asked first, then the content type, with or without parameters."""
    for path, kind in (("README", "text/markdown; charset=utf-8"), ("notes.md", "text/plain")):
        assert (entry := format_of(path, kind)) is not None and entry.name == "markdown"


@pytest.mark.parametrize("path", ["Makefile", ".md", "dir.md/file", "a.", "a.unheardof"])
def test_an_unknown_name_leaves_the_format_to_the_bytes(path: str) -> None:
    """Its version is that of all formats: any of them may turn out to be it."""
    assert format_of(path) is None
    assert version_of(path).startswith("any/") and version_of("a.zip") == version_of(path)
    assert version_of("a.md") == "markdown/1"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("a.png", "Recognise the text of a scan"),
        ("b/c.DOC", "Save it as .docx"),
        ("x.rar", "Pack it as .zip"),
        ("y.exe", "binary"),
    ],
)
def test_what_is_certainly_not_read_is_refused_by_its_name(path: str, says: str) -> None:
    """The error says what to do instead, and which suffixes are read; nobody fetches the bytes."""
    with pytest.raises(UnsupportedFormat, match=says) as caught:
        format_of(path)
    assert ".pdf" in caught.value.extra["supported"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.md", "text/markdown; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.PDF", "application/pdf"),
        ("a", "application/octet-stream"),
        ("a.rst", "text/x-rst"),
    ],
)
def test_a_suffix_names_the_content_type(path: str, kind: str) -> None:
    """Documents are served as what their suffix says."""
    assert content_type_of(path) == kind


def test_text_loses_its_byte_order_mark_and_nothing_else() -> None:
    """UTF-8 with a mark reads as without."""
    extract = extract_text("\ufeffnaïve\r\n".encode())
    assert extract.text == "naïve\r\n"
    assert [(s.start, s.end, s.heading) for s in extract.sections] == [(0, 7, None)]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "byte 8 is none that UTF-8 text holds"),
        (b"before\0after it", "byte 6 is none that UTF-8 text holds. Upload a text file, as UTF-8"),
        ("text".encode("utf-16"), "is not text"),
        (b"\xfe\xff\xd8\x3d", "is not text"),
        ("caf\xe9".encode("latin-1"), "byte 3 is 0xe9"),
        (b"cut off \xe2\x82", "byte 8 is 0xe2"),
    ],
)
def test_bytes_that_are_no_utf8_are_refused_with_their_place(data: bytes, says: str) -> None:
    """Binary and other encodings get a sentence that says where the text stops being UTF-8."""
    with pytest.raises(UnsupportedFormat, match=says):
        extract_text(data)


def test_sections_know_the_path_of_their_headings() -> None:
    """A deeper heading extends the path, an equal or higher one replaces its end."""
    text = "intro\n\n# Guide\na\n## Install ##\nb\n### Linux\nc\n## Use\nd\n# Other\ne\n"
    assert sections_of(text) == [
        (None, "intro"),
        ("Guide", "# Guide\na"),
        ("Guide > Install", "## Install ##\nb"),
        ("Guide > Install > Linux", "### Linux\nc"),
        ("Guide > Use", "## Use\nd"),
        ("Other", "# Other\ne"),
    ]


def test_a_heading_without_text_joins_the_section_below_it() -> None:
    """A bare title makes no section of its own."""
    assert sections_of("# A\n\n## B\n\ntext\n") == [("A > B", "# A\n\n## B\n\ntext")]


def test_underlined_headings_are_headings() -> None:
    """A line of = or - under a line of text; a rule after a blank line is a rule."""
    assert sections_of("Title\n=====\na\n\nSub\n---\nb\n\n---\nc\n") == [
        ("Title", "Title\n=====\na"),
        ("Title > Sub", "Sub\n---\nb\n\n---\nc"),
    ]


def test_code_blocks_have_no_headings() -> None:
    """What a fence encloses is text, and so is an indented line or a word that begins with a hash."""
    text = "# A\n```sh\n# comment\n```\n~~~~\n# more\n~~~\n# still\n~~~~\n    # indented\n#tag\n####### seven\n"
    assert [heading for heading, _ in sections_of(text)] == ["A"]


@pytest.mark.parametrize(
    "front", ["---\ntitle: A\ntags: [b]\n---\n", "+++\ntitle = 'A'\n+++\n", "---\ntitle: A\n...\n"]
)
def test_front_matter_is_left_out(front: str) -> None:
    """YAML and TOML front matter is in the text, so that offsets hold, and in no section."""
    assert sections_of(front + "# H\nbody\n") == [("H", "# H\nbody")]
    assert extract_markdown((front + "x").encode()).text == front + "x"


@pytest.mark.parametrize("text", ["---\n\nbetween rules\n\n---\nafter\n", "---\ntitle: never ends\n", "---\n", "---"])
def test_a_rule_is_not_front_matter(text: str) -> None:
    """Text between two rules, and front matter without an end, is text."""
    assert sections_of(text)[0][1].startswith("---")


def test_windows_line_ends_are_line_ends() -> None:
    """Headings and front matter are found in text with carriage returns."""
    assert sections_of("---\r\na: b\r\n---\r\n# H\r\nbody\r\n") == [("H", "# H\r\nbody")]


def test_an_empty_document_is_one_empty_section() -> None:
    """Nothing in, nothing out."""
    assert sections_of("") == [(None, "")]
