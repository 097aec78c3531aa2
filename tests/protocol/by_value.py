"""What a filter on numbers finds here, where the reference finds something else on purpose.

Numbers compare by value here, and a float is found by its own value; the reference compares them in its own way
(``tests.support.filter_models``). A condition on a number, for which the two ways differ on a stored record, is
evaluated by the model; the reference answers every other condition. Their combination is the ids that ours must find.
So a request that differs on purpose is compared with the reference's answer for these ids, field by field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from tests.protocol.comparing import Answer
from tests.protocol.sides import Side, Sides
from tests.support.filter_models import as_chroma, by_value, is_number, satisfies

JSON = {"content-type": "application/json"}
# No record has it.
NOTHING = "a text that nothing has"
_FILTERS = ("where", "where_document")


def post(side: Side, path: str, body: Any, places: Mapping[str, str]) -> Answer:
    """Send a body to one side."""
    return side.send("POST", path, msgspec.json.encode(body), JSON, places)


def for_reference(sides: Sides, path: str, body: Any, places: Mapping[str, str]) -> Any | None:
    """Return the body that asks the reference for what ours must find, or None if the filters mean the same to both."""
    if not isinstance(body, dict) or not any(True for _ in _numeric(body.get("where"))):
        return None
    place, _, verb = path.rpartition("/")
    shown = [post(side, f"{place}/get", {"include": ["metadatas"]}, places) for side in (sides.reference, sides.ours)]
    if any(each.status != 200 for each in shown):
        return None
    ids = shown[0].body["ids"]
    theirs, own = ([metadata or {} for metadata in each.body["metadatas"]] for each in shown)
    if not any(_differs(*leaf, theirs, own) for leaf in _numeric(body["where"])):
        return None

    def ask(clause: dict[str, Any]) -> Answer:
        return post(sides.reference, f"{place}/get", {**clause, "include": []}, places)

    # With a limit of none, so that the reference judges the filter, and finds nothing.
    chosen = {key: body[key] for key in ("ids", *_FILTERS) if body.get(key) is not None}
    if ask({**chosen, "limit": 0}).status != 200:
        return None

    def numbers(key: str, operator: str, x: Any) -> set[str]:
        return {i for i, row in zip(ids, own, strict=True) if satisfies(row.get(key), operator, x, by_value)}

    found = set(ids)
    for name in _FILTERS:
        if chosen.get(name) is not None:
            found &= _ids(name, chosen[name], set(ids), numbers, ask)
    if chosen.get("ids") is not None:
        found &= set(chosen["ids"])
    page = [i for i in ids if i in found]
    rest = {key: value for key, value in body.items() if key not in ("ids", *_FILTERS)}
    if verb == "delete":
        # A limit needs a filter.
        page = page[: rest.pop("limit", None)]
    if not page:
        return {**rest, "where": {"missing": NOTHING}}
    return {**rest, "ids": page}


def _conditions(where: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (key, operator, operand) of each condition on metadata; nothing of what is no filter."""
    if not isinstance(where, dict) or len(where) != 1:
        return
    ((key, operand),) = where.items()
    if key in ("$and", "$or"):
        for part in operand if isinstance(operand, list) else ():
            yield from _conditions(part)
    elif not isinstance(operand, dict):
        yield key, "$eq", operand
    elif len(operand) == 1:
        ((operator, x),) = operand.items()
        yield key, operator, x


def _is_numeric(operator: str, x: Any) -> bool:
    known = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$contains", "$not_contains")
    return operator in known and all(is_number(each) for each in (x if isinstance(x, list) and x else [x]))


def _numeric(where: Any) -> Iterator[tuple[str, str, Any]]:
    return (leaf for leaf in _conditions(where) if _is_numeric(leaf[1], leaf[2]))


def _differs(key: str, operator: str, x: Any, theirs: list[dict[str, Any]], own: list[dict[str, Any]]) -> bool:
    """Return whether a condition on a number differs for a record, as each side shows it."""
    return any(
        satisfies(one.get(key), operator, x, as_chroma) != satisfies(other.get(key), operator, x, by_value)
        for one, other in zip(theirs, own, strict=True)
    )


def _ids(
    name: str,
    clause: Any,
    everything: set[str],
    numbers: Callable[[str, str, Any], set[str]],
    ask: Callable[[dict[str, Any]], Answer],
) -> set[str]:
    """Return the ids that satisfy a filter that the reference takes."""
    ((key, operand),) = clause.items() if len(clause) == 1 else [("", None)]
    if key in ("$and", "$or"):
        parts = [_ids(name, part, everything, numbers, ask) for part in operand]
        # Without a part both are true for every record.
        return set.union(*parts) if key == "$or" and parts else everything.intersection(*parts)
    for leaf in _numeric(clause) if name == "where" else ():
        return numbers(*leaf)
    return set(ask({name: clause}).body["ids"])
