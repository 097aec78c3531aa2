"""What the exceptions of Chroma's bindings mean: on the native API, and to a client of Chroma's own protocol.

The bindings raise three kinds of exceptions and, from a Rust panic, a BaseException. Only their names and texts tell
what happened, so the texts stand here and in no other module.
"""

from __future__ import annotations

from typing import Final

from vectorpool.errors import (
    BrokenReplica,
    ChromaRefusal,
    CollectionExists,
    CollectionNotFound,
    DimensionMismatch,
    InternalError,
    InvalidFilter,
    InvalidRequest,
    LimitExceeded,
    RecordNotFound,
    VectorpoolError,
)

# Texts that mean: this open client will not work again.
_BROKEN: Final = (
    "sending message to compactor",
    "sending backfill request to compactor",
    "Failed to apply logs",
    "Failed to send request",
    "database disk image is malformed",
    "file is not a database",
    # The fault is in the files, not in the request: an index that cannot be loaded, or that lacks a record's vector.
    "Error constructing hnsw segment reader",
    "Error creating hnsw segment reader",
    "Error getting embedding",
)
_UNKNOWN_RECORD: Final = "Error finding id"
_NAME_TAKEN: Final = "UNIQUE constraint failed"
_PANIC: Final = "PanicException"
_NOT_FOUND: Final = "NotFoundError"

# What SQLite says of a statement that is too large for it, by a part of its text: what there is too much of, the most
# that it takes, and the name of the limit.
_VARIABLES: Final = "too many SQL variables"
_LIMITS: Final = (
    (_VARIABLES, "ids or values", 32_000, "ids and values"),
    ("Expression tree is too large", "conditions of a filter", 1000, "filter conditions"),
    ("LIKE or GLOB pattern too complex", "bytes of a text to search for", 50_000, "filter text bytes"),
)
# SQLite's number for a function that failed; Chroma has one, which compiles regular expressions.
_REGEX_TOO_LARGE: Final = "(code: 1043)"

# What Chroma's server answers with another status than the kind of the exception says, by a part of its text.
_STATUS_BY_TEXT: Final = (
    ("already exists", 409),
    ("is not supported for local chroma", 501),
    ("is unsupported for local chroma", 501),
    ("not implemented", 501),
    # The server calls this an internal error. The caller named a record that is not there.
    (_UNKNOWN_RECORD, 400),
    ("unknown field", 422),
    ("unknown variant", 422),
    ("invalid type", 422),
    ("invalid value", 422),
    ("missing field", 422),
    ("did not match any variant", 422),
)
_STATUS_BY_KIND: Final = {"InvalidArgumentError": 400, "TypeError": 422, "ValueError": 400, _NOT_FOUND: 404}
_COMPILED: Final = "The regular expression is larger than Chroma compiles"
_OTHER_SHAPE: Final = "Failed to deserialize the JSON body into the target type: "


def as_broken(error: BaseException) -> BrokenReplica | None:
    """Return the error of a client that does not work any more; None if ``error`` means something else."""
    if type(error).__name__ == _PANIC or (isinstance(error, Exception) and any(part in str(error) for part in _BROKEN)):
        return BrokenReplica(f"Chroma stopped working on this replica: {str(error)[:300]}.")
    return None


def is_not_found(error: Exception) -> bool:
    """Return whether the bindings say that a database or a collection is not there."""
    return type(error).__name__ == _NOT_FOUND


def is_unknown_record(error: Exception) -> bool:
    """Return whether the bindings say that the index has no record of an id."""
    return _UNKNOWN_RECORD in str(error)


def is_over_variables(error: Exception) -> bool:
    """Return whether Chroma named more records in one SQL statement than SQLite takes."""
    return _VARIABLES in str(error)


def _too_large(text: str) -> VectorpoolError | None:
    """Return the refusal of a request that Chroma makes too large an SQL statement of; None if that is not it."""
    for part, what, limit, name in _LIMITS:
        if part in text:
            detail = f"Chroma answers this request, and takes at most {limit:,} {what}. Split the call."
            return LimitExceeded(detail, extra={"limit": limit, "limit_name": name})
    return None


def is_name_taken(error: Exception) -> bool:
    """Return whether the bindings say, in SQLite's words, that a collection of the new name is there."""
    return _NAME_TAKEN in str(error)


def translate(error: Exception) -> VectorpoolError:
    """Return what an exception of the bindings means to a caller of the native API."""
    if isinstance(error, VectorpoolError):
        return error
    kind, text = type(error).__name__, str(error)
    if (too_large := _too_large(text)) is not None:
        return too_large
    if _REGEX_TOO_LARGE in text:
        return InvalidFilter(f"{_COMPILED}. Make it shorter, or repeat less.")
    if kind == "InvalidArgumentError" and "dimension" in text:
        return DimensionMismatch(text)
    if kind == "InvalidArgumentError" and ("where" in text.lower() or "Regex" in text):
        return InvalidFilter(f"Chroma refuses the filter: {text}. Correct it.")
    if kind == _NOT_FOUND:
        return CollectionNotFound(f"{text} List the collections to see their names.")
    if "already exists" in text:
        return CollectionExists(f"{text}. Choose another name, or pass get_or_create.")
    if is_unknown_record(error):
        return RecordNotFound("The query is restricted to ids of which one is not in the collection. Leave it out.")
    if kind in ("InvalidArgumentError", "TypeError", "ValueError", "UnicodeEncodeError", "OverflowError"):
        return InvalidRequest(f"Chroma refuses the request: {text[:500]}.")
    return InternalError(f"Chroma failed: {text[:300]}.")


def refusal(error: Exception) -> VectorpoolError:
    """Return what an exception of the bindings means to a client of Chroma: Chroma's words and its server's status.

    Client libraries choose an exception by the status or by the error's name, and some match the text. So only what
    the bindings blur is rewritten: their exceptions have three kinds, the server's answers some more.
    """
    if isinstance(error, VectorpoolError):
        return error
    kind, text = type(error).__name__, str(error).removeprefix("Error getting collection: ")
    if (too_large := _too_large(text)) is not None:
        return too_large
    if _REGEX_TOO_LARGE in text:
        return ChromaRefusal(_COMPILED, status=400)
    for part, status in _STATUS_BY_TEXT:
        if part in text:
            # What is part of a body for the server is a text of its own for the bindings.
            return ChromaRefusal(_OTHER_SHAPE + text if status == 422 else text, status=status)
    return ChromaRefusal(text, status=_STATUS_BY_KIND.get(kind, 500))


# --- Refusals that are decided here, in Chroma's words ---------------------------------------------


def tenant_exists(name: str) -> ChromaRefusal:
    """Return the refusal of a tenant that is there."""
    return ChromaRefusal(f"Tenant [{name}] already exists", status=409)


def database_not_found(name: str) -> ChromaRefusal:
    """Return the refusal of a database that is not there."""
    return ChromaRefusal(f"Database [{name}] not found", status=404)


def collection_not_found(collection_id: str) -> ChromaRefusal:
    """Return the refusal of a collection's id that no database has."""
    return ChromaRefusal(f"Collection [{collection_id}] does not exist.", status=404)


def collection_exists(name: str | None) -> ChromaRefusal:
    """Return the refusal of a collection's name that is taken; Chroma's server answers 500 in SQLite's words."""
    return ChromaRefusal(f"Collection [{name}] already exists", status=409)


def empty_join(field: str) -> ChromaRefusal:
    """Return the refusal of a deletion whose filter joins no conditions; Chroma deletes every record by ``$and``."""
    return ChromaRefusal(f"Invalid {field} clause: $and and $or need at least one condition", status=400)


def nul_in_document(position: int) -> ChromaRefusal:
    """Return the refusal of a text with a NUL, after which Chroma's full-text index finds nothing."""
    return ChromaRefusal(f"Validation error: documents: The document at index {position} holds a NUL", status=400)


def empty_id() -> ChromaRefusal:
    """Return the refusal of a record's id without a character."""
    return ChromaRefusal("Empty ID, ID must have at least one character", status=400)


def invalid_metadata(position: int) -> ChromaRefusal:
    """Return the refusal of a metadata key that Chroma reserves, in the record at ``position``."""
    return ChromaRefusal(f"Validation error: metadatas: Invalid metadata at index {position}", status=400)


def inconsistent_columns() -> ChromaRefusal:
    """Return the refusal of columns that differ in length."""
    return ChromaRefusal("Inconsistent number of IDs, embeddings, documents, URIs and metadatas", status=400)


def not_finite() -> ChromaRefusal:
    """Return the refusal of an embedding with a number that is not finite."""
    return ChromaRefusal("Validation error: embeddings: Embeddings must not contain NaN or Infinity values", status=400)


def other_dimension(expected: int, got: int) -> ChromaRefusal:
    """Return the refusal of embeddings of another dimension than the collection's."""
    return ChromaRefusal(f"Collection expecting embedding with dimension of {expected}, got {got}", status=400)
