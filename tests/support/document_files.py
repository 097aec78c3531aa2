"""Real documents of every format that is read, and bad ones, as bytes.

Each good one has a heading or a name ``Warranty`` and the sentence of ``FACT``.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from email.message import EmailMessage

import docx
import fpdf
import openpyxl
import pptx

FACT = "The pump has a warranty of two years."
ODT = "application/vnd.oasis.opendocument.text"


def packed(files: dict[str, bytes | str], *, mimetype: str | None = None) -> bytes:
    """Return a zip file; a mimetype stands first and uncompressed, as packages want it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        if mimetype is not None:
            archive.writestr(zipfile.ZipInfo("mimetype"), mimetype)
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    """Return a tar file, compressed by its mode."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def word() -> bytes:
    """Return a Word document with headings and a table."""
    document, out = docx.Document(), io.BytesIO()
    document.add_heading("Guide", 1)
    document.add_paragraph("About the pump.")
    document.add_heading("Warranty", 2)
    document.add_paragraph(FACT)
    table = document.add_table(2, 2)
    for at, text in enumerate(("Part", "Price", "Valve", "12")):
        table.cell(at // 2, at % 2).text = text
    document.save(out)
    return out.getvalue()


def workbook() -> bytes:
    """Return a workbook of two sheets."""
    book, out = openpyxl.Workbook(), io.BytesIO()
    sheet = book.active
    sheet.title = "Prices"
    for row in (("Part", "Price"), ("Valve", 12), ("Pump | large", 99.5)):
        sheet.append(row)
    second = book.create_sheet("Warranty")
    second.append(("Part", "Sentence"))
    second.append(("Pump", FACT))
    book.save(out)
    return out.getvalue()


def slides() -> bytes:
    """Return a presentation whose second slide has the fact in its notes."""
    show, out = pptx.Presentation(), io.BytesIO()
    for title, body, notes in (("Pumps", "All pumps", ""), ("Warranty", "Ask us", FACT)):
        slide = show.slides.add_slide(show.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = body
        if notes:
            slide.notes_slide.notes_text_frame.text = notes
    show.save(out)
    return out.getvalue()


def pdf(*pages: str, password: str | None = None, drawing: bool = False) -> bytes:
    """Return a PDF, a page a text; encrypted with a password; with a drawing and no text."""
    paper = fpdf.FPDF()
    if password is not None:
        paper.set_encryption(owner_password="owner", user_password=password)
    paper.set_font("helvetica", size=12)
    for text in pages or ("First page.", f"Warranty\n{FACT}"):
        paper.add_page()
        if drawing:
            paper.rect(10, 10, 100, 100, style="F")
        else:
            paper.multi_cell(0, 10, text)
    return bytes(paper.output())


def odt(*, encrypted: bool = False) -> bytes:
    """Return an OpenDocument text; ``encrypted`` only says so, as its list of files does."""
    names = " ".join(f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "text"))
    content = (
        f'<?xml version="1.0"?><office:document-content {names} office:version="1.2"><office:body><office:text>'
        f'<text:h text:outline-level="1">Warranty</text:h><text:p>{FACT}</text:p>'
        "</office:text></office:body></office:document-content>"
    )
    inner = "<manifest:encryption-data/>" if encrypted else ""
    manifest = (
        '<?xml version="1.0"?><manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
        f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{ODT}"/>'
        f'<manifest:file-entry manifest:full-path="content.xml" manifest:media-type="text/xml">{inner}'
        "</manifest:file-entry></manifest:manifest>"
    )
    body: bytes | str = bytes(range(256)) * 8 if encrypted else content
    return packed({"content.xml": body, "META-INF/manifest.xml": manifest}, mimetype=ODT)


def epub() -> bytes:
    """Return a book of two chapters."""
    container = (
        '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        '<rootfiles><rootfile full-path="O/c.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    names = ("c1", "c2")
    items = "".join(f'<item id="{n}" href="{n}.xhtml" media-type="application/xhtml+xml"/>' for n in names)
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="i">x</dc:identifier>'
        f"<dc:title>The Book</dc:title><dc:language>en</dc:language></metadata><manifest>{items}</manifest>"
        f"<spine>{''.join(f'<itemref idref={chr(34)}{n}{chr(34)}/>' for n in names)}</spine></package>"
    )
    page = '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body><h1>{}</h1><p>{}</p></body></html>'
    files: dict[str, bytes | str] = {
        "META-INF/container.xml": container,
        "O/c.opf": package,
        "O/c1.xhtml": page.format("Pumps", "It was a dark night."),
        "O/c2.xhtml": page.format("Warranty", FACT),
    }
    return packed(files, mimetype="application/epub+zip")


def mail() -> bytes:
    """Return a mail with a picture and a Markdown file attached."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.org", "b@example.org", "Warranty"
    message.set_content("Dear all, see the attachment.\n")
    message.add_alternative("<p>Dear all, see the <b>attachment</b>.</p>", subtype="html")
    message.add_attachment(f"# Pump\n\n{FACT}\n".encode(), maintype="text", subtype="markdown", filename="pump.md")
    message.add_attachment(b"\x89PNG\r\n\x1a\n\0\0", maintype="image", subtype="png", filename="logo.png")
    return message.as_bytes()


def notebook() -> bytes:
    """Return a notebook of three cells."""
    cells = [
        {"cell_type": "markdown", "source": ["# Warranty\n", "\n", FACT]},
        {
            "cell_type": "code",
            "source": "print(6 * 7)",
            "outputs": [{"output_type": "stream", "text": ["42\n"]}, {"data": {"image/png": "aGk="}}],
        },
        {"cell_type": "raw", "source": "raw text"},
    ]
    return json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}).encode()


HTML = (
    "<!doctype html><html><head><title>Pumps</title><style>p { color: red }</style><script>alert(1)</script></head>"
    f"<body><h1>Pumps</h1><p>About.</p><h2>Warranty</h2><p>{FACT}</p></body></html>"
).encode()
XML = f'<?xml version="1.0"?><shop><warranty part="pump"><text>{FACT}</text></warranty></shop>'.encode()

# By path: how its bytes are made. Every one of them has the fact.
GOOD: dict[str, Callable[[], bytes]] = {
    "a.txt": lambda: f"Warranty\n\n{FACT}\n".encode(),
    "a.md": lambda: f"# Pumps\n\n## Warranty\n\n{FACT}\n".encode(),
    "a.html": lambda: HTML,
    "a.pdf": pdf,
    "a.docx": word,
    "a.pptx": slides,
    "a.xlsx": workbook,
    "a.odt": odt,
    "a.rtf": lambda: rb"{\rtf1\ansi{\b Warranty}\par " + FACT.encode() + rb"\par}",
    "a.epub": epub,
    "a.csv": lambda: f'Part;Sentence\nvalve;"none; at\nall"\nwarranty;{FACT}\n'.encode(),
    "a.tsv": lambda: f"Part\tSentence\nwarranty\t{FACT}\n".encode(),
    "a.json": lambda: json.dumps({"pumps": {"warranty": [{"text": FACT, "years": 2}]}}).encode(),
    "a.jsonl": lambda: f'{{"part": "valve"}}\n\n{{"warranty": "{FACT}"}}\n'.encode(),
    "a.xml": lambda: XML,
    "a.eml": mail,
    "a.ipynb": notebook,
    "a.py": lambda: f'"""Warranty."""\n\n\ndef warranty() -> str:\n    return "{FACT}"\n'.encode(),
    "a.zip": lambda: packed({"docs/pump.md": f"# Warranty\n\n{FACT}\n", "docs/a.pdf": pdf(), "logo.png": b"\x89PNG"}),
    "a.tar.gz": lambda: tarred({"docs/warranty.txt": FACT.encode(), "docs/inner.zip": packed({"x.txt": "inside"})}),
}


def bomb() -> bytes:
    """Return a zip file of a hundred kilobytes that unpacks to gigabytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.txt", b"0" * (80 * 1024**2))
    return out.getvalue()


def nested(depth: int) -> bytes:
    """Return archives inside each other."""
    data = FACT.encode()
    name = "a.txt"
    for number in range(depth):
        data, name = packed({name: data}), f"level-{number}.zip"
    return data


def encrypted_zip() -> bytes:
    """Return an archive whose only file says that it is encrypted."""
    data = bytearray(packed({"a.txt": FACT}))
    central = data.index(b"PK\x01\x02")
    data[6] |= 1
    data[central + 8] |= 1
    return bytes(data)


ENTITIES = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>'
OUTSIDE = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'
OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "WordDocument".encode("utf-16-le")
ENCRYPTED_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "EncryptedPackage".encode("utf-16-le")

# By path: how its bytes are made, and the code of the error.
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.pdf": (lambda: b"", "document-empty"),
    "blank.md": (lambda: b" \n\n", "document-empty"),
    "image.pdf": (lambda: pdf("x", drawing=True), "document-without-text"),
    "no-text.html": (lambda: b"<!doctype html><html><body><img src='x.png'></body></html>", "document-without-text"),
    "secret.pdf": (lambda: pdf("secret", password="x"), "document-encrypted"),
    "secret.docx": (lambda: ENCRYPTED_OFFICE, "document-encrypted"),
    "secret.odt": (lambda: odt(encrypted=True), "document-encrypted"),
    "secret.zip": (encrypted_zip, "document-encrypted"),
    "cut.pdf": (lambda: pdf()[:200], "document-unreadable"),
    "cut.docx": (lambda: word()[: len(word()) // 2], "document-unreadable"),
    "cut.xlsx": (lambda: workbook()[:1000], "document-unreadable"),
    "cut.pptx": (lambda: slides()[:5000], "document-unreadable"),
    "cut.zip": (lambda: packed({"a.txt": FACT * 100})[:-40], "document-unreadable"),
    "cut.tar.gz": (lambda: tarred({"a.txt": FACT.encode() * 1000})[:60], "document-unreadable"),
    "text.pdf": (lambda: FACT.encode(), "document-unreadable"),
    "bad.json": (lambda: b'{"a": 1,}', "document-unreadable"),
    "bad.jsonl": (lambda: b'{"a": 1}\n{"a"\n', "document-unreadable"),
    "bad.xml": (lambda: b"<a><b></a>", "document-unreadable"),
    "bad.ipynb": (lambda: b"[1]", "document-unreadable"),
    "latin.csv": (lambda: "Größe;1\n".encode("latin-1"), "unsupported-format"),
    "wide.txt": (lambda: FACT.encode("utf-16"), "unsupported-format"),
    "old.docx": (lambda: OLD_OFFICE, "unsupported-format"),
    "noise": (lambda: bytes(range(256)) * 16, "unsupported-format"),
    "entities.xml": (lambda: ENTITIES, "document-too-costly"),
    "outside.xml": (lambda: OUTSIDE, "document-too-costly"),
    "bomb.zip": (bomb, "document-too-costly"),
    "nested.zip": (lambda: nested(6), "document-too-costly"),
    "many.zip": (lambda: packed({f"{n}.txt": "x" for n in range(2100)}), "document-too-costly"),
    "deep.xml": (lambda: b"<a>" * 5000 + b"x" + b"</a>" * 5000, "document-too-costly"),
}
