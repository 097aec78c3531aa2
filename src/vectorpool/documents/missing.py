"""The listing of documents with those whose records a restore or fork brought and whose bytes are not kept."""

from __future__ import annotations

from collections.abc import Iterable

from vectorpool.answers import RestoredDocument
from vectorpool.documents.library import Document, DocumentPage
from vectorpool.extraction.formats import content_type_of


def with_missing(page: DocumentPage, rows: Iterable[RestoredDocument], limit: int) -> DocumentPage:
    """Return a page of the bucket's documents with those of ``rows`` that are not in it, at most ``limit``.

    ``rows`` are an avatar's flagged rows by path, from where the page begins.
    """
    there = {document.path for document in page.documents}
    last = None if page.next_after is None else page.next_after.encode()
    documents = list(page.documents)
    for row in rows:
        # Behind the page's last path a later page says whether the document is there.
        if row.path not in there and (last is None or row.path.encode() <= last):
            documents.append(Document(row.path, row.size, row.etag, 0, content_type_of(row.path), missing=True))
    documents.sort(key=lambda document: document.path.encode())
    if len(documents) <= limit:
        return DocumentPage(documents, page.next_after, page.refused)
    end = documents[limit - 1].path
    # Names behind the page's last document are the next page's.
    return DocumentPage(documents[:limit], end, [refused for refused in page.refused if refused.name < end])
