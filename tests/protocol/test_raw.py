"""Every route over plain HTTP: each case of ``cases/*.txt``, and what a line cannot say, to both servers.

A group of cases has a tenant of its own with a database ``shelf`` that holds the collection ``books``; its cases run in
order, so later ones see what earlier ones wrote, and a single one can be run alone only if it needs no other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.protocol.sides import API, Sides

CASES = Path(__file__).with_name("cases")
GROUPS = ("places", "collections", "schema", "writes", "filters", "unicode", "queries", "orders", "empty")
BOOKS = {
    "ids": ["a", "b", "c", "d"],
    "embeddings": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.25, 0.1]],
    "documents": ["red apple", "green pear", None, "blue plum"],
    "metadatas": [
        {"n": 1, "s": "x", "f": 0.5, "t": True},
        {"n": 2, "s": "y"},
        None,
        {"tags": ["p", "q"], "n": 2.0},
    ],
    "uris": ["u:a", None, None, None],
}
# Above the 40 MiB that the reference takes.
TOO_MUCH = 41 * 1024**2


def lines(group: str) -> list[Any]:
    """Return a group's cases as parameters, each named by its place in the file."""
    # Split at newlines alone: cases hold other characters that count as line ends.
    rows = (CASES / f"{group}.txt").read_text(encoding="utf-8").split("\n")
    return [
        pytest.param(group, row, id=f"{group}:{number}")
        for number, row in enumerate(rows, 1)
        if row and not row.startswith("#")
    ]


class Worlds:
    """The groups' tenants, each made when its first case runs."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._made: dict[str, dict[str, str]] = {}

    def of(self, group: str) -> dict[str, str]:
        """Return what ``<T>`` and ``<B>`` mean in a group."""
        if group not in self._made:
            places = {"T": f"{API}/tenants/{group}", "B": f"{API}/tenants/{group}/databases/shelf"}
            self._made[group] = places
            self._sides.same("POST", f"{API}/tenants", {"name": group})
            self._sides.same("POST", "<T>/databases", {"name": "shelf"}, places=places)
            self._sides.same("POST", "<B>/collections", {"name": "books"}, places=places)
            self._sides.same("POST", "<books>/add", BOOKS, places=places)
        return self._made[group]


@pytest.fixture(scope="module")
def worlds(sides: Sides) -> Worlds:
    """One world a group, on both servers."""
    return Worlds(sides)


@pytest.mark.parametrize(("group", "line"), [case for group in GROUPS for case in lines(group)])
def test_case(sides: Sides, worlds: Worlds, group: str, line: str) -> None:
    """Both servers answer a request alike."""
    method, path, *body = line.split(" ", 2)
    content = body[0].encode() if body else None
    sides.same(method, path, content=content, places=worlds.of(group))


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=latin-1",
        "APPLICATION/JSON",
        "application/problem+json",
        "application/jsonx",
        "text/json",
        "text/plain",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "nonsense",
    ],
)
@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("<books>/get", b'{"limit":1}'),
        ("<books>/get", b""),
        ("<books>/count", b'{"limit":1}'),
        ("<none>/add", b"{}"),
        ("<B>/collections", b'{"name":"books"}'),
        (f"{API}/tenants", b'{"name":"places"}'),
    ],
)
def test_content_types(sides: Sides, worlds: Worlds, content_type: str | None, path: str, content: bytes) -> None:
    """Both servers take the same content types for JSON, and none at all too."""
    headers = {} if content_type is None else {"content-type": content_type}
    worlds.of("places")
    sides.same("POST", path, content=content, headers=headers, places=worlds.of("filters"))


@pytest.mark.parametrize("path", ["<books>/add", "<books>/get", f"{API}/tenants", "<none>/add"])
def test_too_large(sides: Sides, worlds: Worlds, path: str) -> None:
    """Both servers refuse a body above 40 MiB in the same words."""
    sides.same("POST", path, content=b" " * TOO_MUCH + b"{}", places=worlds.of("filters"))


def test_just_large_enough(sides: Sides, worlds: Worlds) -> None:
    """Both servers take a body of exactly 40 MiB."""
    body = b'{"limit":1}'
    sides.same("POST", "<books>/get", content=b" " * (40 * 1024**2 - len(body)) + body, places=worlds.of("filters"))


def test_more_than_the_batch_size(sides: Sides, worlds: Worlds) -> None:
    """Both servers take more records in one call than they tell clients to send."""
    count = 5462
    ids = [f"n{number}" for number in range(count)]
    body = {"ids": ids, "embeddings": [[number, 1, 0] for number in range(count)]}
    places = worlds.of("batch")
    sides.same("POST", "<books>/add", body, places=places)
    sides.same("GET", "<books>/count", places=places)
    sides.same("POST", "<books>/get", {"offset": count - 3, "include": ["embeddings"]}, places=places)
    sides.same("POST", "<books>/query", {"query_embeddings": [[17.2, 1, 0]], "n_results": 3}, places=places)


def test_pages_of_collections(sides: Sides, worlds: Worlds) -> None:
    """Pages of collections, put together, are all of them on both servers."""
    places = worlds.of("pages")
    for number in range(7):
        sides.same("POST", "<B>/collections", {"name": f"number-{number}"}, places=places)
    seen: tuple[list[str], list[str]] = ([], [])
    for offset in range(0, 9, 3):
        for answer, names in zip(
            sides.send("GET", f"<B>/collections?limit=3&offset={offset}", places=places), seen, strict=True
        ):
            names.extend(found["name"] for found in answer.body)
    assert sorted(seen[0]) == sorted(seen[1]) == ["books", *(f"number-{number}" for number in range(7))]


def test_another_tenants_place(sides: Sides, worlds: Worlds) -> None:
    """A database and a collection's name of one tenant are nothing under another, on both servers."""
    worlds.of("filters")
    places = {"T": f"{API}/tenants/lonely", "B": f"{API}/tenants/lonely/databases/shelf"}
    sides.same("POST", f"{API}/tenants", {"name": "lonely"})
    sides.same("GET", "<T>/databases", places=places)
    sides.same("GET", "<B>", places=places)
    sides.same("GET", "<B>/collections/books", places=places)
    sides.same("GET", "<B>/collections", places=places)
    sides.same("DELETE", "<B>/collections/books", places=places)


def test_reset(sides: Sides, worlds: Worlds) -> None:
    """After a reset, both servers have the default tenant and its database alone."""
    places = worlds.of("reset")
    default = {"T": f"{API}/tenants/default_tenant", "B": f"{API}/tenants/default_tenant/databases/default_database"}
    sides.same("POST", "<B>/collections", {"name": "books"}, places=default)
    sides.same("POST", f"{API}/reset")
    sides.same("GET", "<T>", places=places)
    sides.same("GET", "<B>", places=places)
    sides.same("POST", "<books>/get", {}, places=places)
    sides.same("GET", "<T>", places=default)
    sides.same("GET", "<T>/databases", places=default)
    sides.same("GET", "<B>/collections", places=default)
    sides.same("POST", "<B>/collections", {"name": "books"}, places=default)
    sides.same("POST", "<books>/get", {}, places=default)
