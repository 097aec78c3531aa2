"""An instance that is behind refuses a write as the newest state refuses it, on both protocols.

Two instances share a store. The first one changes a vectorstore that the second one has open; the second one then gets
a write that no longer applies. It loses the race, takes the newer commit in, and answers about that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.service import Service

NATIVE = "/users/42/avatars/7/collections"
CHROMA = "/api/v2/tenants/42/databases/avatar-7/collections"
RECORD = {"id": "a", "embedding": [1.0, 2.0], "document": "one"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Service]]:
    """Two instances over one store."""
    root = tmp_path_factory.mktemp("behind")
    first = Service(root / "first", "--shards", "1", store=str(root / "store"))
    second = Service(root / "second", "--shards", "1", store=str(root / "store"))
    try:
        yield first.start(), second.start()
    finally:
        first.close()
        second.close()


def _prepared(pair: tuple[Service, Service]) -> str:
    """Make the collection with one record, have both instances open, and return the collection's id."""
    first, second = pair
    first.request("DELETE", f"{NATIVE}/notes")
    first.ok("POST", NATIVE, json={"name": "notes"})
    first.ok("PUT", f"{NATIVE}/notes/records", json={"records": [RECORD]})
    assert second.ok("GET", f"{NATIVE}/notes/count").json()["count"] == 1
    collection_id: str = second.ok("GET", f"{CHROMA}/notes").json()["id"]
    return collection_id


def _drop(service: Service) -> None:
    service.ok("DELETE", f"{NATIVE}/notes")


def _add_b(service: Service) -> None:
    service.ok("PUT", f"{NATIVE}/notes/records", json={"records": [{**RECORD, "id": "b"}]})


def _delete_a(service: Service) -> None:
    service.ok("DELETE", f"{NATIVE}/notes/records", json={"ids": ["a"]})


def _create_more(service: Service) -> None:
    service.request("DELETE", f"{NATIVE}/more")
    service.ok("POST", NATIVE, json={"name": "more"})


def _drop_more(service: Service) -> None:
    service.request("DELETE", f"{NATIVE}/more")


BODY: dict[str, Any] = {"ids": ["c"], "embeddings": [[3.0, 4.0]]}


@pytest.mark.parametrize(
    ("change", "method", "path", "body", "status", "code"),
    [
        (_drop, "PUT", f"{NATIVE}/notes/records", {"records": [RECORD]}, 404, "collection-not-found"),
        (_drop, "POST", f"{NATIVE}/notes/records", {"records": [RECORD]}, 404, "collection-not-found"),
        (_drop, "PATCH", f"{NATIVE}/notes/records", {"records": [RECORD]}, 404, "collection-not-found"),
        (_drop, "DELETE", f"{NATIVE}/notes", None, 404, "collection-not-found"),
        (_drop, "POST", CHROMA + "/{id}/add", BODY, 404, "NotFoundError"),
        (_drop, "POST", CHROMA + "/{id}/upsert", BODY, 404, "NotFoundError"),
        (_drop, "POST", CHROMA + "/{id}/update", {**BODY, "ids": ["a"]}, 404, "NotFoundError"),
        (_drop, "POST", CHROMA + "/{id}/delete", {"ids": ["a"]}, 404, "NotFoundError"),
        (_drop, "DELETE", f"{CHROMA}/notes", None, 404, "NotFoundError"),
        (_add_b, "POST", f"{NATIVE}/notes/records", {"records": [{**RECORD, "id": "b"}]}, 409, "record-exists"),
        (_delete_a, "PATCH", f"{NATIVE}/notes/records", {"records": [RECORD]}, 404, "record-not-found"),
    ],
)
def test_a_write_is_refused_as_the_newest_state_refuses_it(
    pair: tuple[Service, Service], change: Any, method: str, path: str, body: Any, status: int, code: str
) -> None:
    """Not with a conflict: only one race was lost."""
    first, second = pair
    collection_id = _prepared(pair)
    change(first)
    answer = second.request(method, path.replace("{id}", collection_id), json=body)
    told = answer.json()
    assert (answer.status_code, told.get("code") or told.get("error")) == (status, code), answer.text


@pytest.mark.parametrize(("path", "code"), [(NATIVE, "collection-exists"), (CHROMA, "ChromaError")])
def test_a_collection_that_was_made_elsewhere_exists(pair: tuple[Service, Service], path: str, code: str) -> None:
    """A collection of the same name is refused by name, as one instance refuses it."""
    first, second = pair
    _prepared(pair)
    _drop_more(first)
    assert second.ok("GET", f"{NATIVE}/notes/count").json()["count"] == 1
    _create_more(first)
    answer = second.request("POST", path, json={"name": "more"})
    told = answer.json()
    assert (answer.status_code, told.get("code") or told.get("error")) == (409, code), answer.text


def test_a_document_that_was_deleted_elsewhere_is_not_there(pair: tuple[Service, Service]) -> None:
    """The second deletion of a document is 404, also where its records were known."""
    first, second = pair
    documents = "/users/42/avatars/7/documents"
    first.ok("PUT", f"{documents}/a.md", content=b"# Title\n\nText.")
    first.ok("POST", "/users/42/avatars/7/ingest?wait_s=50")
    assert second.ok("GET", f"{NATIVE}/documents/count").json()["count"] > 0
    first.ok("DELETE", f"{documents}/a.md")
    second.problem("DELETE", f"{documents}/a.md", "document-not-found")
