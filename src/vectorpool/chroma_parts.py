"""Parts of the bodies of Chroma's protocol, decoded: JSON, lists, filters, configurations, metadata.

What is not JSON is a 400, JSON of another shape a 422, as with Chroma's server. A part is counted before it is decoded.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final, TypeAlias

import msgspec
import orjson

from vectorpool import bounds, chroma_bounds, commands
from vectorpool.errors import ChromaRefusal
from vectorpool.outline import Body, Member
from vectorpool.settings import Settings

# A part of a body: as it came, or of a large body a member whose items can be had in chunks.
Part: TypeAlias = msgspec.Raw | Member

_INT64: Final = range(-(2**63), 2**63)
# JSON can spell half a surrogate pair; text cannot hold it.
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
# A larger body is looked through part by part, once its parts are counted.
_WHOLE_BYTES: Final = 1024**2
_PLACE: Final = re.compile(r"\$\[(\d+)\]")


def decode_json(body: Body | msgspec.Raw, kind: Any, *, place: str = "") -> Any:
    """Return a body, or its part at ``place``, as ``kind``.

    Raises ChromaRefusal: 400 for no JSON, 422 for another shape.
    """
    try:
        if place or len(memoryview(body)) <= _WHOLE_BYTES:
            _check_pairs(body)
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise wrong_shape(f"{place}: {error}" if place else str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, orjson.JSONDecodeError) as error:
        raise ChromaRefusal(f"Failed to parse the request body as JSON: {error}", status=400) from error


def _check_pairs(body: Body | msgspec.Raw) -> None:
    if _SURROGATE.search(body):
        # The stricter decoder refuses half a pair.
        orjson.loads(memoryview(body))


def wrong_shape(text: str) -> ChromaRefusal:
    """Return the refusal of JSON of another shape."""
    return ChromaRefusal(f"Failed to deserialize the JSON body into the target type: {text}", status=422)


def is_null(raw: Part) -> bool:
    """Return whether a part is null."""
    if isinstance(raw, Member):
        raw = raw.raw
    return len(memoryview(raw)) < 64 and bytes(raw).strip() == b"null"


def index_text(raw: msgspec.Raw, field: str) -> str | None:
    """Return a configuration or a schema as it came, once its numbers are checked; None for null."""
    if is_null(raw):
        return None
    chroma_bounds.check_index(raw, of=f"The {field}")
    return _text(raw)


def filter_text(raw: msgspec.Raw, field: str) -> str | None:
    """Return a filter as it came, once it is measured; None for null."""
    if is_null(raw):
        return None
    chroma_bounds.check_filter(raw, field)
    return _text(raw)


def _text(raw: msgspec.Raw) -> str:
    try:
        _check_pairs(raw)
        return bytes(raw).decode()
    except (UnicodeDecodeError, orjson.JSONDecodeError) as error:
        raise ChromaRefusal(f"Failed to parse the request body as JSON: {error}", status=400) from error


def list_of(raw: Part, kind: Any, field: str, most: bounds.Most, *, each: bounds.Most | None = None) -> Any:
    """Return a list of a body, counted before it is decoded; None for null.

    ``kind`` is its type, and ``each`` bounds the bytes of an item.
    """
    if is_null(raw):
        return None
    if isinstance(raw, Member):
        return _list_of_chunks(raw, kind, field, most, each)
    chroma_bounds.check_items(raw, most, each=each)
    items = decode_json(raw, kind, place=field)
    most.check(len(items))
    return items


def _list_of_chunks(member: Member, kind: Any, field: str, most: bounds.Most, each: bounds.Most | None) -> list[Any]:
    """Return a list of a large body, decoded in chunks. Its items are counted already."""
    if (count := member.items) is not None:
        most.check(count)
    if each is not None and member.longest > each.most:
        raise each.exceeded("The call")
    items: list[Any] = []
    for at, chunk in member.chunks():
        try:
            items += decode_json(chunk, kind, place=field)
        except ChromaRefusal as error:
            # The error counts from the first item of the chunk.
            text = _PLACE.sub(lambda found, at=at: f"$[{int(found[1]) + at}]", error.detail, count=1)  # type: ignore[misc]
            raise ChromaRefusal(text, status=error.status) from error
    most.check(len(items))
    return items


def ids_of(raw: Part, most: bounds.Most = bounds.PROTOCOL_IDS) -> list[str] | None:
    """Return ids of records, at most ``most``; None for null."""
    ids: list[str] | None = list_of(raw, list[str], "ids", most)
    chroma_bounds.check_ids(ids)
    return ids


def include_of(raw: msgspec.Raw, default: tuple[commands.Include, ...]) -> tuple[commands.Include, ...]:
    """Return what an answer includes; ``default`` if the body does not say."""
    if not memoryview(raw):
        return default
    chroma_bounds.check_items(raw, bounds.INCLUDE)
    chosen: tuple[commands.Include, ...] = decode_json(raw, tuple[commands.Include, ...], place="include")
    bounds.INCLUDE.check(len(chosen))
    return chosen


def records_bound(settings: Settings, what: str) -> bounds.Most:
    """Return the bound of the items that one call may have for records; ``what`` names them."""
    return chroma_bounds.of_setting(settings, what, "max_records")


# --- Metadata ----------------------------------------------------------------------------------------


def metadatas_of(raw: Part, most: bounds.Most, *, nulls: bool) -> list[dict[str, Any] | None] | None:
    """Return the metadata of records; None for null. ``nulls`` allows null values, which delete keys."""
    pieces: list[msgspec.Raw] | None = list_of(raw, list[msgspec.Raw], "metadatas", most, each=bounds.METADATA_BYTES)
    if pieces is None:
        return None
    return [
        None if is_null(piece) else _metadata(_object(piece, f"metadatas[{at}]"), f"metadatas[{at}]", nulls=nulls)
        for at, piece in enumerate(pieces)
    ]


def _object(raw: msgspec.Raw, place: str) -> dict[str, Any]:
    """Return the metadata at ``place``, counted before it is decoded."""
    chroma_bounds.check_values(raw, of=place)
    metadata: dict[str, Any] = decode_json(raw, dict[str, Any], place=place)
    return metadata


def _metadata(metadata: dict[str, Any], place: str, *, nulls: bool) -> dict[str, Any]:
    chroma_bounds.check_metadata(metadata, of=place)
    checked: dict[str, Any] = {}
    for key, value in metadata.items():
        one = _value(value, f"{place}.{key}", key, nulls=nulls)
        if value == [] and isinstance(value, list):
            # No value: in an update it deletes the key.
            if nulls:
                checked[key] = None
            continue
        checked[key] = one
    return checked


def collection_metadata_of(raw: msgspec.Raw, place: str, *, nulls: bool = False) -> dict[str, Any] | None:
    """Return a collection's metadata, within the bounds; None for null."""
    if is_null(raw):
        return None
    metadata = _object(raw, place)
    chroma_bounds.check_collection_metadata(metadata, of=place)
    checked = {key: _value(value, f"{place}.{key}", key, nulls=nulls) for key, value in metadata.items()}
    for key, value in checked.items():
        if isinstance(value, list):
            # Chroma's server stops working on it.
            raise ChromaRefusal(
                f"Validation error: {place}: A collection's metadata cannot hold an array, as under {key[:80]!r}",
                status=400,
            )
    return checked


def _value(value: Any, place: str, key: str, *, nulls: bool) -> Any:
    """Return a metadata value as Chroma takes it: integers beyond 64 bits and mixed arrays of numbers are floats."""
    if value is None and nulls:
        return None
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if value in _INT64 else float(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, dict) and value.get("#type") == "sparse_vector":
        raise ChromaRefusal(f"Unimplemented: Sparse vector is not supported for local chroma: {key}", status=501)
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        if len(kinds) <= 1 and kinds <= {bool, str, float}:
            return value
        if kinds <= {int, float}:
            whole = kinds == {int} and all(item in _INT64 for item in value)
            return value if whole else [float(item) for item in value]
    kind = "UpdateMetadataValue" if nulls else "MetadataValue"
    raise wrong_shape(f"{place}: data did not match any variant of untagged enum {kind}")
