"""Errors that call for another request: what was asked cannot be carried out as it stands."""

from __future__ import annotations

from typing import Any

from vectorpool.errors.base import VectorpoolError


class InvalidRequest(VectorpoolError):
    """The request cannot be carried out as it stands; sending it again does not help."""

    code = "invalid-request"
    title = "The request is not valid"
    status = 400


class InvalidId(InvalidRequest):
    """A user, avatar, collection, record or document id that breaks the rules of its kind."""

    code = "invalid-id"
    title = "The id is not valid"


class InvalidFilter(InvalidRequest):
    """A ``where`` or ``where_document`` that Chroma does not understand."""

    code = "invalid-filter"
    title = "The filter is not valid"


class InvalidEmbedding(InvalidRequest):
    """An embedding that is empty, ragged, not a number or infinite."""

    code = "invalid-embedding"
    title = "The embedding is not valid"


class DimensionMismatch(InvalidRequest):
    """An embedding whose dimension is not the collection's."""

    code = "dimension-mismatch"
    title = "The embedding has another dimension than the collection"


class LimitExceeded(InvalidRequest):
    """More than one call may carry. ``extra`` names the limit."""

    code = "limit-exceeded"
    title = "The request is larger than the limit"
    status = 413


class QuotaExceeded(InvalidRequest):
    """The user would have more stored than its limit allows. Reading and deleting go on.

    ``limit_name``, ``limit`` and ``count`` say which limit, and what it would be. Waiting does not help.
    """

    code = "quota-exceeded"
    title = "The user may store no more"
    status = 507


class HeadersTooLarge(InvalidRequest):
    """The request's headers take more bytes, or are more, than the service reads. The connection is closed."""

    code = "headers-too-large"
    title = "The request's headers are too large"
    status = 431


class RequestTooSlow(InvalidRequest):
    """The headers or the body of the request did not arrive in time. The connection is closed."""

    code = "request-too-slow"
    title = "The request did not arrive in time"
    status = 408


class MalformedJson(InvalidRequest):
    """A request body that is not JSON, or not of the documented shape."""

    code = "malformed-json"
    title = "The body is not the JSON that this request needs"


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this HTTP method."""

    code = "method-not-allowed"
    title = "The path does not take this method"
    status = 405


class ChromaRefusal(InvalidRequest):
    """What Chroma refuses to a client of its own protocol: in Chroma's words, with its server's status."""

    code = "chroma-refusal"
    title = "Chroma refuses the request"

    def __init__(self, detail: str, *, status: int = 400, **members: Any) -> None:
        super().__init__(detail, **{"extra": {"status": status}, **members})


class UnsupportedFormat(InvalidRequest):
    """A document that no registered format can read."""

    code = "unsupported-format"
    title = "The document's format is not supported"
    status = 415


class DocumentUnreadable(InvalidRequest):
    """A document whose bytes are damaged, or are not what its name says. Save it again, and put it again."""

    code = "document-unreadable"
    title = "The document cannot be read"
    status = 422


class DocumentEncrypted(InvalidRequest):
    """A document that needs a password. Save it without one, and put it again."""

    code = "document-encrypted"
    title = "The document is encrypted"
    status = 422


class DocumentEmpty(InvalidRequest):
    """A document of no bytes, or of white space alone."""

    code = "document-empty"
    title = "The document is empty"
    status = 422


class DocumentWithoutText(InvalidRequest):
    """A document that can be read and has no text, such as a scan. Put the text that was recognised in it."""

    code = "document-without-text"
    title = "The document has no text"
    status = 422


class DocumentTooCostly(InvalidRequest):
    """A document that takes more memory, time, text or files than one may: a large one, or one that is made to harm."""

    code = "document-too-costly"
    title = "The document takes more than one document may"
    status = 413


class ExtractionNotInstalled(InvalidRequest):
    """A document of a format that the extra ``extraction`` reads, which this instance does not have."""

    code = "extraction-not-installed"
    title = "This instance does not read the document's format"
    status = 501


class UploadUrlUnavailable(InvalidRequest):
    """The store has no upload URLs: a directory, or credentials that cannot sign. Put the document here instead."""

    code = "upload-url-unavailable"
    title = "The store makes no upload URLs"
    status = 501


class WebhookRefused(InvalidRequest):
    """A webhook's URL that cannot be used, or that leads to a private, local or reserved address."""

    code = "webhook-refused"
    title = "The webhook's URL is not allowed"


class DownloadFailed(InvalidRequest):
    """A URL of the request at which nothing could be read. Send one that the service can reach and read."""

    code = "download-failed"
    title = "The URL cannot be read"
    status = 422


class WebhookUndelivered(VectorpoolError):
    """A job's documents are ingested, and its webhook did not take their records. Retry the job to send them again."""

    code = "webhook-undelivered"
    title = "The webhook did not take the records"
    status = 502


class HostRefused(VectorpoolError):
    """Without tokens: the request names a host that is not this machine's, or a page of another site sends it."""

    code = "host-refused"
    title = "The request may come from a web page of another site"
    status = 403


class NoTokenSecret(InvalidRequest):
    """The instance has no secret that could sign a token, or no signed tokens that could be revoked."""

    code = "no-token-secret"
    title = "The instance has no secret for tokens"
    status = 409


class Unauthenticated(VectorpoolError):
    """A token is asked for, and the request has none, or one that is not known."""

    code = "unauthenticated"
    title = "The request has no token that is known here"
    status = 401


class Forbidden(VectorpoolError):
    """The token may not touch this user, whether or not there is such a user, or may not operate the service."""

    code = "forbidden"
    title = "The token does not allow this"
    status = 403
