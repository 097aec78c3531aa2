"""The table of what can be read, by suffix and content type, and what bytes are, whatever their name says.

A format's ``version`` is part of the version of a pipeline: raise it when the same bytes give another text, and
documents are ingested again. This module is light: the front asks it for content types.
"""

from __future__ import annotations

import io
import re
import zipfile
from typing import Final

import msgspec

from vectorpool.errors import DocumentEncrypted, DocumentUnreadable, UnsupportedFormat


class Format(msgspec.Struct, frozen=True):
    """A kind of documents. ``needs_library`` says that the extra ``extraction`` reads it.

    ``is_binary`` says that its bytes show what they are, so that others of its name are broken.
    """

    name: str
    version: int
    suffixes: tuple[str, ...]
    content_types: tuple[str, ...]
    needs_library: bool = False
    is_binary: bool = False


_OFFICE: Final = "application/vnd.openxmlformats-officedocument."
_ODF: Final = "application/vnd.oasis.opendocument."

# As one text: a line a suffix would be a page.
_CODE: Final = tuple(
    re.findall(
        r"\S+",
        """
        .py .pyi .js .mjs .cjs .ts .tsx .jsx .java .kt .kts .scala .go .rs .c .h .cc .cpp .cxx .hpp .hh .cs .swift .m
        .rb .php .pl .pm .lua .r .jl .sh .bash .zsh .ps1 .sql .css .scss .less .vue .svelte .dart .ex .exs .erl .hs .clj
        .fs .ml .groovy .gradle .tf .proto .graphql .yaml .yml .toml .ini .cfg .conf .cmake
        """,
    )
)

FORMATS: Final = (
    Format("markdown", 1, (".md", ".markdown", ".mdown"), ("text/markdown",)),
    Format("text", 1, (".txt", ".text", ".rst", ".log"), ("text/plain",)),
    Format("html", 1, (".html", ".htm", ".xhtml"), ("text/html", "application/xhtml+xml"), needs_library=True),
    Format("pdf", 1, (".pdf",), ("application/pdf",), True, True),
    Format("docx", 1, (".docx",), (_OFFICE + "wordprocessingml.document",), True, True),
    Format("pptx", 1, (".pptx",), (_OFFICE + "presentationml.presentation",), False, True),
    Format("xlsx", 1, (".xlsx",), (_OFFICE + "spreadsheetml.sheet",), True, True),
    Format("odt", 1, (".odt",), (_ODF + "text",), True, True),
    Format("rtf", 1, (".rtf",), ("application/rtf", "text/rtf"), True, True),
    Format("epub", 1, (".epub",), ("application/epub+zip",), True, True),
    Format("csv", 1, (".csv",), ("text/csv",)),
    Format("tsv", 1, (".tsv", ".tab"), ("text/tab-separated-values",)),
    Format("json", 1, (".json",), ("application/json",)),
    Format("jsonl", 1, (".jsonl", ".ndjson"), ("application/x-ndjson", "application/jsonl")),
    Format("xml", 1, (".xml",), ("application/xml", "text/xml")),
    Format("eml", 1, (".eml",), ("message/rfc822",)),
    Format("notebook", 1, (".ipynb",), ("application/x-ipynb+json",)),
    Format("zip", 1, (".zip",), ("application/zip",), is_binary=True),
    Format(
        "tar",
        1,
        (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz"),
        ("application/x-tar", "application/gzip"),
        is_binary=True,
    ),
    Format(
        "code",
        1,
        _CODE,
        ("text/x-source",),
    ),
)

BY_NAME: Final = {entry.name: entry for entry in FORMATS}
_BY_SUFFIX: Final = {suffix: entry for entry in FORMATS for suffix in entry.suffixes}
# An archive and a file of an unknown name may hold each of them.
_ANY: Final = f"any/{sum(entry.version for entry in FORMATS)}"

# Suffixes of documents with a content type of their own.
_OTHER_CONTENT_TYPES: Final = {
    ".rst": "text/x-rst",
    ".xhtml": "application/xhtml+xml",
    ".tgz": "application/gzip",
    ".gz": "application/gzip",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".py": "text/x-python",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".svg": "image/svg+xml",
}
# What is certainly not read, so that it is not even fetched: what to do instead.
_NOT_READ: Final = {
    **dict.fromkeys(
        (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".ico"),
        "Pictures are not read. Recognise the text of a scan (OCR), and upload that.",
    ),
    **dict.fromkeys(
        (".mp3", ".wav", ".ogg", ".flac", ".m4a", ".mp4", ".mkv", ".mov", ".avi", ".webm"),
        "Sound and film are not read. Upload a transcript.",
    ),
    **dict.fromkeys((".doc", ".xls", ".ppt", ".dot", ".pps"), "Save it as .docx, .xlsx or .pptx."),
    **dict.fromkeys((".rar", ".7z"), "Pack it as .zip or .tar.gz."),
    **dict.fromkeys(
        (".exe", ".dll", ".so", ".dylib", ".bin", ".class", ".pyc", ".o", ".a", ".iso", ".dmg", ".woff", ".woff2"),
        "Programs and binary data are not read.",
    ),
}


def suffix_of(path: str) -> str:
    """Return the lower-case suffix of a path's last segment, with its dot, or an empty string."""
    name = path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    if not (stem and dot):
        return ""
    suffix = f".{suffix.lower()}"
    inner = stem.lower().rpartition(".tar")
    return f".tar{suffix}" if inner[0] and not inner[2] and suffix in (".gz", ".bz2", ".xz") else suffix


def content_type_of(path: str) -> str:
    """Return the content type that a path's suffix stands for; ``application/octet-stream`` if it is unknown."""
    suffix = suffix_of(path)
    entry = _BY_SUFFIX.get(suffix)
    if suffix in _OTHER_CONTENT_TYPES:
        return _OTHER_CONTENT_TYPES[suffix]
    if entry is None:
        return "application/octet-stream"
    kind = "text/plain" if entry.name == "code" else entry.content_types[0]
    return f"{kind}; charset=utf-8" if kind.startswith("text/") and kind != "text/html" else kind


def format_of(path: str, content_type: str | None = None) -> Format | None:
    """Return the format of a document by its suffix, else by its content type; None if only its bytes can say.

    Raises UnsupportedFormat for names of what is certainly not read.
    """
    suffix = suffix_of(path)
    if suffix in _NOT_READ:
        raise UnsupportedFormat(
            f"The suffix {suffix!r} is not supported. {_NOT_READ[suffix]}", extra={"supported": sorted(_BY_SUFFIX)}
        )
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    kind = (content_type or "").partition(";")[0].strip().lower()
    return next((entry for entry in FORMATS if kind in entry.content_types), None)


def version_of(path: str) -> str:
    """Return the part of a pipeline's version that says how a path's bytes become text. Raises UnsupportedFormat."""
    entry = format_of(path)
    return _ANY if entry is None or entry.name in ("zip", "tar", "eml") else f"{entry.name}/{entry.version}"


# --- What bytes are ----------------------------------------------------------------------------------

_MAGIC: Final = (
    (b"%PDF-", "pdf"),
    (b"{\\rtf", "rtf"),
    (b"\x1f\x8b", "tar"),
    (b"BZh", "tar"),
    (b"\xfd7zXZ\x00", "tar"),
)
_OLE2: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MIMETYPES: Final = {b"application/epub+zip": "epub", (_ODF + "text").encode(): "odt"}
_OTHER_PACKAGES: Final = {"docx", "pptx", "xlsx", "odt", "epub"}
_HTML: Final = re.compile(rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html)\b", re.IGNORECASE | re.DOTALL)
_XML: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<\?xml\b")


def _of_zip(data: bytes) -> str:
    """Return what a zip file is: a package of one of the formats, or an archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if "mimetype" in names[:8] and archive.getinfo("mimetype").file_size < 256:
                with archive.open("mimetype") as file:
                    kind = _MIMETYPES.get(file.read(256).strip())
                if kind is not None:
                    return kind
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, ValueError, KeyError):
        return "zip"
    if "[Content_Types].xml" in names:
        for folder, name in (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx")):
            if any(entry.startswith(folder) for entry in names):
                return name
    return "zip"


def _sniff(data: bytes) -> str | None:
    """Return the format that the bytes show, or None."""
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _of_zip(data)
    if data[257:262] == b"ustar":
        return "tar"
    # A PDF may have some bytes before its mark.
    if b"%PDF-" in data[:1024]:
        return "pdf"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


def recognise(path: str, data: bytes, content_type: str | None = None) -> Format:
    """Return the format of a document by its bytes and its name.

    Bytes that show what they are win over the name. Raises UnsupportedFormat, DocumentEncrypted, DocumentUnreadable.
    """
    named, shown = format_of(path, content_type), _sniff(data)
    if shown is not None and not (shown == "zip" and named is not None and named.name in _OTHER_PACKAGES):
        return BY_NAME[shown]
    if data.startswith(_OLE2):
        if "EncryptedPackage".encode("utf-16-le") in data:
            raise DocumentEncrypted("The document is encrypted. Save it without a password, and put it again.")
        raise UnsupportedFormat("The document is of an old Office format. Save it as .docx, .xlsx or .pptx.")
    if named is not None:
        if named.is_binary and shown is None:
            raise DocumentUnreadable(
                f"The name says {named.name}, and the bytes are something else, or damaged. Put the document again."
            )
        return named
    if _HTML.match(data[:1024]):
        return BY_NAME["html"]
    if _XML.match(data[:256]):
        return BY_NAME["xml"]
    if b"\0" in data[:4096]:
        raise UnsupportedFormat(
            "The bytes are of no format that is read, and the name does not say what they are. Supported are "
            f"{', '.join(entry.suffixes[0] for entry in FORMATS)} and others. Convert the document.",
            extra={"supported": sorted(_BY_SUFFIX)},
        )
    return BY_NAME["text"]
