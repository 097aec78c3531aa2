"""The default setting: a user needs no creating, as Chroma's clients then find what they ask for at construction."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.protocol.conftest import only_ours
from tests.support.service import Service

TENANT = "/api/v2/tenants/42"

pytestmark = only_ours


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with its defaults, and one shard."""
    service = Service(tmp_path_factory.mktemp("service"), "--shards", "1").start()
    yield service.client
    service.close()


def test_a_tenant_is_there(client: httpx.Client) -> None:
    """A tenant that was never created is answered, with a name shorter than Chroma's three characters."""
    response = client.get(TENANT)
    assert response.status_code == 200, response.text
    assert response.json() == {"name": "42", "resource_name": None}


@pytest.mark.parametrize("database", ["default_database", "avatar-7"])
def test_first_touch(client: httpx.Client, database: str) -> None:
    """The user's own database and an avatar's work from the first request on."""
    response = client.get(f"{TENANT}/databases/{database}")
    assert response.status_code == 200, response.text
    assert (response.json()["name"], response.json()["tenant"]) == (database, "42")
    collections = f"{TENANT}/databases/{database}/collections"
    assert client.get(collections).json() == []
    made = client.post(collections, json={"name": "books"})
    assert made.status_code == 200, made.text
    added = client.post(f"{collections}/{made.json()['id']}/add", json={"ids": ["a"], "embeddings": [[1, 2, 3]]})
    assert added.status_code == 201, added.text
    assert client.get(f"{collections}/{made.json()['id']}/count").json() == 1
    assert client.get(f"{TENANT}/databases/{database}").json()["id"] == response.json()["id"]


def test_first_write_to_an_untouched_avatar(client: httpx.Client) -> None:
    """Creating a collection makes the avatar's database, and both are listed afterwards."""
    made = client.post(f"{TENANT}/databases/avatar-8/collections", json={"name": "books", "get_or_create": True})
    assert made.status_code == 200, made.text
    assert "avatar-8" in [found["name"] for found in client.get(f"{TENANT}/databases").json()]


def test_other_databases_must_be_created(client: httpx.Client) -> None:
    """A database of any other name is missing until it is created, in the reference's words."""
    missing = client.get(f"{TENANT}/databases/library")
    assert missing.status_code == 404
    assert missing.json()["message"] == "Database [library] not found. Are you sure it exists?"
    refused = client.post(f"{TENANT}/databases/library/collections", json={"name": "books"})
    assert refused.status_code == 400
    assert refused.json()["message"] == "Database [library] does not exist"
    assert client.post(f"{TENANT}/databases", json={"name": "library"}).json() == {}
    assert client.get(f"{TENANT}/databases/library").json()["name"] == "library"
    assert client.post(f"{TENANT}/databases/library/collections", json={"name": "books"}).status_code == 200


def test_reset_is_off(client: httpx.Client) -> None:
    """Nobody resets a service that was not set up for it."""
    response = client.post("/api/v2/reset")
    assert response.status_code == 403
    assert response.json() == {"error": "ChromaError", "message": "Reset is disabled by config"}
