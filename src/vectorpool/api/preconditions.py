"""If-Match and If-None-Match of a request about a document: whether it still applies, by the document's ETag.

A condition is compared with the ETag that the store shows right before the operation. A PUT with a condition then
replaces exactly the document of that ETag, or creates one where there was none: the store compares again
(``objects.bucket``), so that of several such writers one wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from vectorpool.errors import InvalidRequest, PreconditionFailed

_TAGS: Final = re.compile(r'\s*(?:W/)?"([^"]*)"\s*(?:,|$)')
_ANY: Final = "*"


def plain(etag: str) -> str:
    """Return a store's ETag without its quotes."""
    return etag.strip('"')


class Preconditions(msgspec.Struct, frozen=True):
    """The ETags of both headers, without quotes; ``*`` for any document, None without the header."""

    match: frozenset[str] | None
    none_match: frozenset[str] | None

    @property
    def is_empty(self) -> bool:
        """Whether the request has no condition."""
        return self.match is None and self.none_match is None

    def check(self, etag: str | None, *, is_read: bool = False) -> bool:
        """Return whether the operation is to be done on a document with this ETag (None: there is none).

        False is for a read of what the caller has already. Raises PreconditionFailed.
        """
        if self.match is not None and not _holds(self.match, etag):
            now = "there is none" if etag is None else f'its ETag is "{plain(etag)}"'
            raise PreconditionFailed(
                f"The document is not the one that If-Match names: {now}. Read it again, then decide.",
                extra={"etag": None if etag is None else plain(etag)},
            )
        if self.none_match is not None and _holds(self.none_match, etag):
            if is_read:
                return False
            raise PreconditionFailed(
                "There is a document that If-None-Match excludes. Read it, or send the request without the header.",
                extra={"etag": plain(etag or "")},
            )
        return True


def _holds(wanted: frozenset[str], etag: str | None) -> bool:
    return etag is not None and (_ANY in wanted or plain(etag) in wanted)


def preconditions_of(headers: Mapping[str, str]) -> Preconditions:
    """Return the conditions of a request; raise InvalidRequest if a header is none."""
    return Preconditions(_tags(headers, "if-match"), _tags(headers, "if-none-match"))


def _tags(headers: Mapping[str, str], name: str) -> frozenset[str] | None:
    text = headers.get(name)
    if text is None:
        return None
    if text.strip() == _ANY:
        return frozenset({_ANY})
    found, at = [], 0
    while at < len(text):
        tag = _TAGS.match(text, at)
        if tag is None:
            raise InvalidRequest(f'{name} is not a list of ETags. Send * or ETags in quotes, such as "5d41402a".')
        found.append(tag[1])
        at = tag.end()
    return frozenset(found)
