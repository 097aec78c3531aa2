"""Plain text and source code: UTF-8, as it stands."""

from __future__ import annotations

from vectorpool.errors import UnsupportedFormat
from vectorpool.extraction.extracts import Extract, Section


def decode_text(data: bytes) -> str:
    """Return UTF-8 text, without a byte order mark; raise UnsupportedFormat for any other bytes."""
    if (at := data.find(b"\0")) >= 0 or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UnsupportedFormat(
            f"The document is not text: byte {max(at, 0)} is none that UTF-8 text holds. Upload a text file, as UTF-8."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnsupportedFormat(
            f"The document is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}. Save it as UTF-8 and upload "
            "it again."
        ) from None


def extract_text(data: bytes) -> Extract:
    """Return plain text as one section."""
    text = decode_text(data)
    return Extract(text, (Section(0, len(text)),))


def extract_code(data: bytes) -> Extract:
    """Return source code as one section."""
    text = decode_text(data)
    return Extract(text, (Section(0, len(text), kind="code"),))
