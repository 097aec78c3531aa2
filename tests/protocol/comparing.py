"""Two answers, compared field by field: what is equal, and a list of sentences for what is not.

Numbers keep their type: ``1`` and ``1.0`` differ, and so do two floats of which one is not the shortest text of the
other's float32. A float of metadata may be what the reference stores for ours. Computed numbers alone are given room
(``tests.support.numbers``): distances, and what clients make of them. Ids that a server makes up are replaced by names
before they get here (``tests.protocol.sides``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from tests.support.numbers import is_close
from vectorpool.engine.filters import stored_float

# The fields that hold computed numbers: Chroma's answer, a row of its JavaScript client, LangChain's and LlamaIndex's.
COMPUTED = ("distances", "distance", "score", "similarities")
_COMPUTED_PATH = re.compile(rf"(?:.*\.)?(?:{'|'.join(COMPUTED)})(?:\[\d+\])*")

# What a JSON parser says about a text is its own wording; that it refused, and how, is not.
PARSER_WORDING = (
    "Failed to parse the request body as JSON",
    "Failed to deserialize the JSON body into the target type",
    "Failed to deserialize query string",
)

VALIDATION_PARAMETERS = re.compile(r"(.*Validation error: length )\[\{(.*)\}\]", re.DOTALL)


class Answer(msgspec.Struct, frozen=True):
    """What a server said: status, media type, headers that mean something, and the body.

    ``body`` is the parsed JSON, or the text where it is none.
    """

    status: int
    media_type: str
    allow: frozenset[str]
    body: Any


def answer_of(response: httpx.Response) -> Answer:
    """Return what a response says, with JSON parsed."""
    media_type = response.headers.get("content-type", "").split(";")[0].strip()
    body: Any = response.text
    if media_type == "application/json":
        # HEAD is answered as GET is, without the body.
        body = msgspec.json.decode(response.content) if response.content else ""
    else:
        # Plain text and nothing at all are what they are, whatever they are called.
        media_type = ""
    # OPTIONS, which the framework answers by itself, and HEAD are no part of the protocol.
    allow = frozenset(name.strip() for name in response.headers.get("allow", "").split(",") if name.strip())
    allow -= {"HEAD", "OPTIONS"}
    return Answer(response.status_code, media_type, allow, body)


def differences(reference: Answer, ours: Answer) -> list[str]:
    """Return a sentence for every difference of two answers; none where they are equal."""
    found = []
    for field in ("status", "media_type", "allow"):
        theirs, own = getattr(reference, field), getattr(ours, field)
        if theirs != own:
            found.append(f"{field}: reference {theirs!r}, ours {own!r}")
    found.extend(_values(reference.body, ours.body, ""))
    return found


def is_alike(reference: Any, ours: Any) -> bool:
    """Whether two JSON values are equal, with the same room for computed numbers that answers have."""
    return not unlike(reference, ours)


def unlike(reference: Any, ours: Any) -> list[str]:
    """Return a sentence for every place at which two JSON values differ."""
    return list(_values(reference, ours, ""))


def is_computed(path: str) -> bool:
    """Whether the place in an answer holds a computed number; metadata holds none, whatever its keys are called."""
    return "metadata" not in path and _COMPUTED_PATH.fullmatch(path) is not None


def _values(reference: Any, ours: Any, path: str) -> Iterator[str]:
    """Yield a sentence for every place at which two JSON values differ."""
    place = path or "body"
    if type(reference) is not type(ours):
        yield f"{place}: reference {reference!r}, ours {ours!r}"
    elif isinstance(reference, dict):
        yield from _objects(reference, ours, path)
    elif isinstance(reference, list):
        if len(reference) != len(ours):
            yield f"{place}: reference {len(reference)} items {reference!r}, ours {len(ours)} {ours!r}"
        for index, (theirs, own) in enumerate(zip(reference, ours, strict=False)):
            yield from _values(theirs, own, f"{path}[{index}]")
    elif not _equal(reference, ours, path):
        yield f"{place}: reference {reference!r}, ours {ours!r}"


def _objects(reference: dict[str, Any], ours: dict[str, Any], path: str) -> Iterator[str]:
    for key in sorted(reference.keys() | ours.keys()):
        inside = f"{path}.{key}" if path else key
        if key not in ours:
            yield f"{inside}: reference {reference[key]!r}, ours has none"
        elif key not in reference:
            yield f"{inside}: reference has none, ours {ours[key]!r}"
        else:
            yield from _values(reference[key], ours[key], inside)


def _equal(reference: Any, ours: Any, path: str) -> bool:
    if isinstance(reference, float):
        if "metadata" in path:
            return reference in _stored(ours)
        return is_close(reference, ours) if is_computed(path) else bool(reference == ours)
    if isinstance(reference, str) and path in ("message", "text"):
        return parser_words(reference) == parser_words(ours)
    return bool(reference == ours)


def _stored(number: float) -> tuple[float, ...]:
    """Return what the reference may hold for a float of metadata: its two JSON readers may each change the digits."""
    once = stored_float(number)
    return number, once, stored_float(once)


def parser_words(message: str) -> str:
    """Return a message without what the JSON parser says in words of its own.

    The parameters of a failed validation come in an order that changes from one answer to the next; they are sorted.
    """
    if found := VALIDATION_PARAMETERS.fullmatch(message):
        return found[1] + ", ".join(sorted(found[2].split(", ")))
    for prefix in PARSER_WORDING:
        if message.startswith(prefix):
            return prefix
    return message


def ties_sorted(body: Any) -> Any:
    """Return a query's answer with results of one distance in the order of their ids, which no server promises.

    Distances within the tolerance of their neighbour count as one.
    """
    if not isinstance(body, dict) or not isinstance(body.get("distances"), list):
        return body
    sorted_body = dict(body)
    columns = [name for name in ("distances", "documents", "embeddings", "metadatas", "uris") if body.get(name)]
    for query, distances in enumerate(body["distances"]):
        order = _order(body["ids"][query], distances)
        for name in ("ids", *columns):
            rows = list(sorted_body[name])
            rows[query] = [body[name][query][row] for row in order]
            sorted_body[name] = rows
    return sorted_body


def _tied(one: float | None, other: float | None) -> bool:
    # What is no number, the distance to an infinite vector, is sent as null.
    if one is None or other is None:
        return one is other
    return is_close(one, other)


def _order(ids: list[str | None], distances: list[float | None]) -> list[int]:
    groups: list[list[int]] = []
    for row, distance in enumerate(distances):
        if groups and _tied(distances[groups[-1][-1]], distance):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [row for group in groups for row in sorted(group, key=lambda row: ids[row] or "")]


def without_cut_ties(answer: Answer, count: int) -> Answer:
    """Return a query's answer without the ids of the last tie where a limit of ``count`` may have cut through it.

    Which of several records at one distance is the last that still fits is open; their distances stay.
    """
    if not isinstance(answer.body, dict) or not isinstance(answer.body.get("distances"), list):
        return answer
    body = dict(answer.body)
    columns = [name for name in ("documents", "embeddings", "metadatas", "uris") if body.get(name)]
    for query, distances in enumerate(body["distances"]):
        if len(distances) < count or not distances:
            continue
        kept = sum(not _tied(distance, distances[-1]) for distance in distances)
        for name in ("ids", *columns):
            rows = list(body[name])
            rows[query] = rows[query][:kept] + [None] * (len(distances) - kept)
            body[name] = rows
    return msgspec.structs.replace(answer, body=body)
