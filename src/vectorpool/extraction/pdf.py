"""PDF by PDFium, a section a page. This module alone imports pypdfium2.

Kreuzberg reads PDF too, but unpacks its PDFium to a file when it is first used, and a process without rights has no
files.
"""

from __future__ import annotations

from typing import Any, Final

from vectorpool.errors import DocumentEncrypted, DocumentUnreadable, DocumentWithoutText, ExtractionNotInstalled
from vectorpool.extraction.extracts import Composer, Extract

try:
    import pypdfium2
except ImportError:
    pypdfium2 = None

NOT_INSTALLED: Final = (
    "Documents of the format {} are read by the extra `extraction`, which is not installed. Run "
    "`pip install 'vectorpool[extraction]'`, use the full image, or convert the document to text or Markdown."
)
ENCRYPTED: Final = "The document is encrypted. Save it without a password, and put it again."


def _open(data: bytes) -> Any:
    if pypdfium2 is None:
        raise ExtractionNotInstalled(NOT_INSTALLED.format("pdf"))
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == pypdfium2.raw.FPDF_ERR_PASSWORD:
            raise DocumentEncrypted(ENCRYPTED) from None
        raise DocumentUnreadable(
            f"The document cannot be read as pdf: {error}. Open it, save it again, and put it again."
        ) from None


def extract_pdf(data: bytes) -> Extract:
    """Return the pages of a PDF. A page that is damaged has no text; if none has, the document is refused."""
    document, composer = _open(data), Composer()
    damaged = 0
    for number in range(1, len(document) + 1):
        try:
            page = document[number - 1]
            text = page.get_textpage().get_text_range()
            # The library keeps pages open until it is told.
            page.close()
        except pypdfium2.PdfiumError:
            damaged += 1
            continue
        # U+FFFE stands for the hyphen of a word that goes on in the next line.
        text = text.replace("\r\n", "\n").replace("\ufffe\n", "").replace("\ufffe", "-").replace("\0", "")
        composer.add(text.strip(), page=number)
    extract = composer.extract()
    if not extract.is_blank:
        return extract
    if damaged:
        raise DocumentUnreadable(f"No page of the PDF can be read, and {damaged} are damaged. Save it again.")
    raise DocumentWithoutText(
        f"The PDF has {len(document)} pages and no text: it is a scan, or a drawing. Recognise its text (OCR), and put "
        "the result."
    )
