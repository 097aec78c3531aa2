"""What records, metadata and filters may be, for every sender: the native API, Chroma's protocol, the command line.

Chroma accepts some of what is refused here and then stops working: a metadata key ``chroma:document``, or a list in
a collection's metadata, ends its compactor for good. So these checks run before a command is built, never after.
Every error says what to send instead, and shows at most forty characters of what was sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vectorpool import bounds
from vectorpool.errors import InvalidFilter, InvalidId, InvalidRequest, LimitExceeded
from vectorpool.names import excerpt

# Chroma keeps its own values under this prefix.
RESERVED_KEY_PREFIX: Final = "chroma:"

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1

_ORDERED: Final = frozenset({"$gt", "$gte", "$lt", "$lte"})
_LISTED: Final = frozenset({"$in", "$nin"})
_SINGLE: Final = frozenset({"$eq", "$ne", "$contains", "$not_contains"})
_JOINING: Final = frozenset({"$and", "$or"})
_ON_TEXT: Final = frozenset({"$contains", "$not_contains", "$regex", "$not_regex"})
_WHERE_OPERATORS: Final = "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $contains, $not_contains"
_TEXT_OPERATORS: Final = "$contains, $not_contains, $regex, $not_regex, $and, $or"


def is_clean_text(text: str) -> bool:
    """Return whether ``text`` can be stored: no lone surrogates, which no encoding of Unicode can carry."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- Ids ---------------------------------------------------------------------------------------------


def check_record_ids(ids: Sequence[str], *, limit: int, limit_name: str = "max_records") -> Sequence[str]:
    """Return the record ids of one call if each is 1 to 512 bytes of text, none is repeated, and they are not too many.

    Raises LimitExceeded above ``limit`` ids, InvalidId for a bad one, InvalidRequest for a repeated one.
    """
    check_count("records", len(ids), limit=limit, limit_name=limit_name)
    seen: set[str] = set()
    for record_id in ids:
        if not record_id:
            raise InvalidId(f"A record id is empty. Give 1 to {bounds.RECORD_ID_BYTES} bytes of text.")
        if len(record_id) * 4 > bounds.RECORD_ID_BYTES and (
            len(record_id) > bounds.RECORD_ID_BYTES
            or len(record_id.encode("utf-8", "surrogatepass")) > bounds.RECORD_ID_BYTES
        ):
            raise InvalidId(
                f"The record id {excerpt(record_id)} is longer than {bounds.RECORD_ID_BYTES} bytes. Use a shorter one."
            )
        if "\x00" in record_id or not is_clean_text(record_id):
            raise InvalidId(
                f"The record id {excerpt(record_id)} holds a NUL or half a surrogate pair. Use ordinary text."
            )
        if record_id in seen:
            raise InvalidRequest(
                f"The record id {excerpt(record_id)} is repeated in one call. Send each id once.",
                extra={"record_id": record_id},
            )
        seen.add(record_id)
    return ids


def check_count(what: str, count: int, *, limit: int, limit_name: str) -> int:
    """Return ``count`` if it is at most ``limit``; raise LimitExceeded that names both otherwise."""
    if count > limit:
        raise LimitExceeded(
            f"The call carries {count} {what}; at most {limit} are allowed ({limit_name}). Split the call.",
            extra={"limit": limit, "limit_name": limit_name, "count": count},
        )
    return count


def check_text(what: str, text: str) -> str:
    """Return ``text`` if it can be stored; raise InvalidRequest otherwise."""
    if not is_clean_text(text):
        raise InvalidRequest(f"{what} holds half a surrogate pair, which is not text. Remove it.")
    return text


def check_document(what: str, text: str) -> str:
    """Return a record's document if it can be stored and searched; raise InvalidRequest otherwise."""
    if "\0" in text:
        raise InvalidRequest(f"{what} holds a NUL, after which no search would find its text. Remove it.")
    return check_text(what, text)


# --- Metadata ----------------------------------------------------------------------------------------


def check_metadata(
    metadata: Mapping[str, Any] | None, *, of: str, nulls: bool = False, lists: bool = True
) -> dict[str, Any] | None:
    """Return metadata that Chroma stores as it is, or None for none at all (also for ``{}``).

    ``of`` names the owner in errors. ``nulls`` allows null values, which delete a key in an update; ``lists`` allows
    lists, which records may have and collections may not. Raises InvalidRequest or LimitExceeded.
    """
    if not metadata:
        return None
    bounds.METADATA_KEYS.check(len(metadata), f"The metadata of {of}")
    bounds.METADATA_VALUES.check(count_values(metadata), f"The metadata of {of}")
    for key, value in metadata.items():
        _check_metadata_key(key, of)
        if value is None:
            if not nulls:
                raise InvalidRequest(
                    f"The metadata of {of} has null under {excerpt(key)}. Leave the key out; only an update may say "
                    "null, to delete a key."
                )
        elif isinstance(value, list):
            _check_metadata_list(key, value, of, allowed=lists)
        else:
            _check_scalar(key, value, of)
    return dict(metadata)


def check_collection_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a collection's metadata: text, integers, numbers and booleans, without lists.

    Numbers of the index under Chroma's own keys, such as ``hnsw:M``, are within the table of bounds.
    """
    checked = check_metadata(metadata, of="the collection", lists=False)
    check_index_metadata(checked or {})
    return checked


def check_index_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise InvalidRequest if a number of the index, such as ``hnsw:M``, is outside the table of bounds."""
    for key, bound in bounds.INDEX_METADATA.items():
        value = metadata.get(key)
        if isinstance(value, (int, float)):
            bound.check(value)


def count_values(metadata: Mapping[str, Any]) -> int:
    """Return the number of values of metadata, the members of lists included."""
    return sum(len(value) if isinstance(value, list) else 1 for value in metadata.values())


def _check_metadata_key(key: str, of: str) -> None:
    if not key:
        raise InvalidRequest(f"The metadata of {of} has an empty key. Name it.")
    if len(key) > bounds.METADATA_KEY_BYTES or len(key.encode("utf-8", "surrogatepass")) > bounds.METADATA_KEY_BYTES:
        raise InvalidRequest(
            f"The metadata key {excerpt(key)} of {of} is longer than {bounds.METADATA_KEY_BYTES} bytes. "
            "Use a shorter one."
        )
    if key.startswith(RESERVED_KEY_PREFIX):
        raise InvalidRequest(
            f"The metadata key {excerpt(key)} of {of} begins with {RESERVED_KEY_PREFIX!r}, which is Chroma's own. "
            "Use another key."
        )
    if key.startswith(("$", "#")):
        raise InvalidRequest(
            f"The metadata key {excerpt(key)} of {of} begins with {key[0]!r}, so that no filter could name it. "
            "Use another key."
        )
    if "\x00" in key or not is_clean_text(key):
        raise InvalidRequest(f"The metadata key {excerpt(key)} of {of} is not ordinary text. Use another key.")


def _check_scalar(key: str, value: Any, of: str) -> None:
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        if not _INT64_MIN <= value <= _INT64_MAX:
            raise InvalidRequest(
                f"The metadata of {of} has an integer under {excerpt(key)} that does not fit 64 bits. Send it as text."
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(f"The metadata of {of} has NaN or infinity under {excerpt(key)}. Send finite numbers.")
    elif isinstance(value, str):
        check_text(f"The metadata of {of} under {excerpt(key)}", value)
    else:
        kind = {"dict": "an object", "list": "a list"}.get(type(value).__name__, type(value).__name__)
        raise InvalidRequest(
            f"The metadata of {of} has {kind} under {excerpt(key)}. Values are text, integers, numbers, booleans, or "
            "lists of one of these."
        )


def _check_metadata_list(key: str, values: list[Any], of: str, *, allowed: bool) -> None:
    if not allowed:
        raise InvalidRequest(
            f"The metadata of {of} has a list under {excerpt(key)}. Only records' metadata may hold lists; send text."
        )
    if not values:
        raise InvalidRequest(f"The metadata of {of} has an empty list under {excerpt(key)}. Leave the key out.")
    bounds.METADATA_LIST.check(len(values), f"The metadata of {of}, under {excerpt(key)},")
    for value in values:
        _check_scalar(key, value, of)
        if type(value) is not type(values[0]):
            raise InvalidRequest(
                f"The metadata of {of} has a list of mixed types under {excerpt(key)}. Use one type in a list."
            )


# --- Filters -----------------------------------------------------------------------------------------


def check_where(where: Any) -> dict[str, Any] | None:
    """Return a filter on metadata that Chroma understands, or None for none; raise InvalidFilter otherwise.

    One condition is ``{"key": value}`` or ``{"key": {"$gt": 3}}``; several are joined by ``$and`` or ``$or``.
    """
    if where is None:
        return None
    _WhereWalk().walk(where, depth=1)
    return dict(where)


def check_where_document(where_document: Any) -> dict[str, Any] | None:
    """Return a filter on document text that Chroma understands, or None for none; raise InvalidFilter otherwise."""
    if where_document is None:
        return None
    _DocumentWalk().walk(where_document, depth=1)
    return dict(where_document)


class _Walk:
    """Walks a filter and counts its conditions, so that neither its depth nor its size is unbounded."""

    field = "where"

    def __init__(self) -> None:
        self._terms = 0
        self.pattern_bytes = 0

    def walk(self, node: Any, depth: int) -> None:
        """Check one node and what is below it."""
        if not isinstance(node, Mapping):
            raise InvalidFilter(f"A condition of {self.field} is not an object. Send {self.example()}.")
        if len(node) != 1:
            raise InvalidFilter(
                f"A condition of {self.field} has {len(node)} members; it needs exactly one. Join conditions with "
                '{"$and": [..., ...]}.'
            )
        self._count(depth)
        for name, operand in node.items():
            if name in _JOINING:
                if not isinstance(operand, list) or not operand:
                    raise InvalidFilter(f"{name} in {self.field} needs a list of conditions that is not empty.")
                for child in operand:
                    self.walk(child, depth + 1)
            else:
                self.condition(name, operand)

    def _count(self, depth: int) -> None:
        self._terms += 1
        if depth > bounds.FILTER_DEPTH:
            raise InvalidFilter(f"{self.field} is nested deeper than {bounds.FILTER_DEPTH} levels. Write it flatter.")
        if self._terms > bounds.FILTER_TERMS.most:
            raise InvalidFilter(
                f"{self.field} has more than {bounds.FILTER_TERMS.most} conditions. Use $in, or several calls."
            )

    def condition(self, name: str, operand: Any) -> None:
        """Check one condition."""
        raise NotImplementedError

    def example(self) -> str:
        """Return a filter that is right."""
        raise NotImplementedError


class _WhereWalk(_Walk):
    def example(self) -> str:
        return '{"key": value} or {"key": {"$gt": 3}}'

    def condition(self, name: str, operand: Any) -> None:
        if name.startswith("$"):
            raise InvalidFilter(
                f"{excerpt(name)} is not an operator that joins conditions. Use $and or $or here, or name a metadata "
                "key first."
            )
        if not name or not is_clean_text(name):
            raise InvalidFilter("A condition of where names no metadata key. Name one.")
        if not isinstance(operand, Mapping):
            self._scalar(name, "$eq", operand)
            return
        if len(operand) != 1:
            raise InvalidFilter(
                f"The condition on {excerpt(name)} has {len(operand)} operators; it needs exactly one. Join conditions "
                'with {"$and": [..., ...]}.'
            )
        for operator, value in operand.items():
            if operator in _LISTED:
                self._list(name, operator, value)
            elif operator in _ORDERED:
                self._scalar(name, operator, value)
                if isinstance(value, (bool, str)):
                    raise InvalidFilter(f"{operator} on {excerpt(name)} needs a number.")
            elif operator in _SINGLE:
                self._scalar(name, operator, value)
            else:
                raise InvalidFilter(
                    f"{excerpt(operator)} on {excerpt(name)} is not an operator. Use one of {_WHERE_OPERATORS}.",
                    extra={"operator": operator[:64]},
                )

    def _list(self, name: str, operator: str, values: Any) -> None:
        if not isinstance(values, list) or not values:
            raise InvalidFilter(f"{operator} on {excerpt(name)} needs a list that is not empty.")
        if len(values) > bounds.FILTER_VALUES.most:
            raise InvalidFilter(
                f"{operator} on {excerpt(name)} lists {len(values)} values; "
                f"at most {bounds.FILTER_VALUES.most} are allowed."
            )
        for value in values:
            self._scalar(name, operator, value)
            if type(value) is not type(values[0]):
                raise InvalidFilter(f"{operator} on {excerpt(name)} has a list of mixed types. Use one type.")

    def _scalar(self, name: str, operator: str, value: Any) -> None:
        ok = (
            isinstance(value, bool)
            or (isinstance(value, int) and _INT64_MIN <= value <= _INT64_MAX)
            or (isinstance(value, float) and math.isfinite(value))
            or (isinstance(value, str) and is_clean_text(value))
        )
        if not ok:
            raise InvalidFilter(
                f"{operator} on {excerpt(name)} needs text, a 64-bit integer, a finite number or a boolean."
            )


class _DocumentWalk(_Walk):
    field = "where_document"

    def example(self) -> str:
        return '{"$contains": "text"}'

    def condition(self, name: str, operand: Any) -> None:
        if name not in _ON_TEXT:
            raise InvalidFilter(
                f"{excerpt(name)} in where_document is not an operator. Use one of {_TEXT_OPERATORS}.",
                extra={"operator": name[:64]},
            )
        if not isinstance(operand, str) or not operand or not is_clean_text(operand):
            raise InvalidFilter(f"{name} in where_document needs text that is not empty.")
        if name in ("$regex", "$not_regex"):
            self.pattern_bytes += len(operand.encode())
            bounds.FILTER_PATTERN_BYTES.check(self.pattern_bytes, "where_document")
