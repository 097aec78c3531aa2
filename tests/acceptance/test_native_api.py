"""Every route of the native API, as a client sees it."""

from __future__ import annotations

import pytest

from tests.support.service import Service

NOTES = [
    {"id": "warranty", "document": "The warranty of the kettle lasts two years.", "metadata": {"page": 3}},
    {"id": "cat", "document": "The cat sleeps on the sofa all day.", "metadata": {"page": 4, "tags": ["pet", "home"]}},
    {"id": "rain", "document": "It rains in the mountains in April.", "metadata": {"page": 5}},
]


@pytest.fixture(params=["own", "avatar"])
def home(request: pytest.FixtureRequest, user: str) -> str:
    """Where collections are: the user's own, and an avatar's; both must behave alike."""
    return f"/users/{user}" + ("/avatars/7" if request.param == "avatar" else "")


def test_a_collection_lives_through_all_its_routes(service: Service, home: str) -> None:
    """A collection is created, listed, got, renamed, given metadata and deleted, and each answer names its commit."""
    notes = f"{home}/collections/notes"
    made = service.ok(
        "POST", f"{home}/collections", json={"name": "notes", "metadata": {"a": 1}, "hnsw": {"space": "l2"}}
    )
    assert made.status_code == 201
    assert made.headers["x-vectorpool-commit"] == "1"
    body = made.json()
    assert (body["name"], body["metadata"], body["space"], body["count"]) == ("notes", {"a": 1}, "l2", 0)
    assert body["avatar_id"] == ("7" if "avatars" in home else None)
    service.problem("POST", f"{home}/collections", "collection-exists", json={"name": "notes"})
    again = service.ok("POST", f"{home}/collections", json={"name": "notes", "get_or_create": True})
    assert again.json()["id"] == body["id"]
    service.ok("POST", f"{home}/collections", json={"name": "other"})
    page = service.ok("GET", f"{home}/collections", params={"limit": 1, "offset": 1}).json()
    assert ([c["name"] for c in page["collections"]], page["total"]) == (["other"], 2)
    service.problem("PATCH", notes, "collection-exists", json={"name": "other"})
    changed = service.ok("PATCH", notes, json={"name": "letters", "metadata": {"b": 2}}).json()
    assert (changed["name"], changed["metadata"], changed["id"]) == ("letters", {"b": 2}, body["id"])
    service.problem("GET", notes, "collection-not-found")
    assert service.ok("GET", f"{home}/collections/letters").json()["metadata"] == {"b": 2}
    service.ok("DELETE", f"{home}/collections/letters")
    service.problem("GET", f"{home}/collections/letters", "collection-not-found")


def test_records_live_through_all_their_routes(service: Service, home: str) -> None:
    """Records are added, upserted, updated, got, queried, counted and deleted."""
    service.ok("POST", f"{home}/collections", json={"name": "notes"})
    notes = f"{home}/collections/notes"
    added = service.ok("POST", f"{notes}/records", json={"records": NOTES})
    assert (added.status_code, added.json()) == (201, {"written": 3})
    commit = int(added.headers["x-vectorpool-commit"])
    found = service.ok("POST", f"{notes}/query", json={"texts": ["how long is the guarantee?"], "n_results": 1})
    match = found.json()["results"][0][0]
    assert (match["id"], match["metadata"]) == ("warranty", {"page": 3})
    assert int(found.headers["x-vectorpool-commit"]) == commit
    service.ok("PUT", f"{notes}/records", json={"records": [{**NOTES[2], "document": "It snows."}]})
    service.ok("PATCH", f"{notes}/records", json={"records": [{"id": "cat", "metadata": {"page": None, "new": True}}]})
    got = service.ok("POST", f"{notes}/records/get", json={"ids": ["cat", "rain"]}).json()["records"]
    assert {record["id"]: record for record in got} == {
        "cat": {"id": "cat", "document": NOTES[1]["document"], "metadata": {"tags": ["pet", "home"], "new": True}},
        "rain": {"id": "rain", "document": "It snows.", "metadata": {"page": 5}},
    }
    got = service.ok("POST", f"{notes}/records/get", json={"where": {"tags": {"$contains": "pet"}}, "include": []})
    assert got.json() == {"records": [{"id": "cat"}]}
    got = service.ok("POST", f"{notes}/records/get", json={"where_document": {"$contains": "snows"}, "include": []})
    assert got.json() == {"records": [{"id": "rain"}]}
    page = service.ok("POST", f"{notes}/records/get", json={"limit": 1, "offset": 1, "include": []})
    assert page.json() == {"records": [{"id": "cat"}]}
    assert service.ok("GET", f"{notes}/count").json() == {"count": 3}
    assert service.ok("DELETE", f"{notes}/records", json={"ids": ["cat", "not-there"]}).json() == {"deleted": 1}
    assert service.ok("DELETE", f"{notes}/records", json={"where": {"page": {"$gt": 4}}}).json() == {"deleted": 1}
    assert service.ok("GET", f"{notes}/count").json() == {"count": 1}


def test_given_embeddings_are_taken_as_they_are(service: Service, home: str) -> None:
    """Embeddings of the caller come back as they were, and a new document is embedded anew."""
    service.ok("POST", f"{home}/collections", json={"name": "points", "hnsw": {"space": "l2"}})
    points = f"{home}/collections/points"
    records = [{"id": "a", "embedding": [1, 0.5, -2]}, {"id": "b", "embedding": [0, 0, 1], "uri": "file:b"}]
    service.ok("PUT", f"{points}/records", json={"records": records})
    got = service.ok("POST", f"{points}/records/get", json={"include": ["embeddings", "uris"]}).json()["records"]
    assert got == [
        {"id": "a", "embedding": [1.0, 0.5, -2.0]},
        {"id": "b", "embedding": [0.0, 0.0, 1.0], "uri": "file:b"},
    ]
    found = service.ok("POST", f"{points}/query", json={"embeddings": [[0, 0, 1], [1, 0.5, -2]], "n_results": 1})
    assert [[m["id"] for m in matches] for matches in found.json()["results"]] == [["b"], ["a"]]
    assert service.ok("GET", points).json()["dimension"] == 3
    service.problem("POST", f"{points}/query", "dimension-mismatch", json={"texts": ["a question"]})
    assert service.ok("GET", f"{points}/count").json() == {"count": 2}


def test_documents_and_embeddings_may_be_mixed_in_one_call(service: Service, home: str) -> None:
    """Records with an embedding keep it, those with text only get one of the same length."""
    service.ok("POST", f"{home}/collections", json={"name": "mixed"})
    mixed = f"{home}/collections/mixed"
    given = [0.0] * 383 + [1.0]
    service.ok("POST", f"{mixed}/records", json={"records": [NOTES[0], {"id": "mine", "embedding": given}]})
    found = service.ok("POST", f"{mixed}/query", json={"embeddings": [given], "n_results": 1})
    assert found.json()["results"][0][0]["id"] == "mine"
    body = {"records": [{**NOTES[0], "document": "Cats purr."}, {"id": "mine", "metadata": {"k": 1}}]}
    service.ok("PATCH", f"{mixed}/records", json=body)
    found = service.ok("POST", f"{mixed}/query", json={"texts": ["Cats purr."], "n_results": 1}).json()
    assert found["results"][0][0]["id"] == "warranty"
    assert found["results"][0][0]["distance"] < 0.01


def test_documents_become_answers(service: Service, user: str) -> None:
    """Bytes put by path come back, are ingested, answer a question with their place, and are forgotten when deleted."""
    avatar = f"/users/{user}/avatars/7"
    text = "# Kettle\n\nIt boils water.\n\n# Warranty\n\nThe warranty lasts two years.\n"
    put = service.ok("PUT", f"{avatar}/documents/hand%20books/kettle.md", content=text.encode())
    assert (put.status_code, put.json()["path"], put.json()["size"]) == (201, "hand books/kettle.md", len(text))
    assert service.ok("PUT", f"{avatar}/documents/b.txt", content=b"Cats purr.").status_code == 201
    assert service.ok("PUT", f"{avatar}/documents/b.txt", content=b"Cats sleep.").status_code == 200
    for method in ("GET", "HEAD"):
        got = service.ok(method, f"{avatar}/documents/hand%20books/kettle.md")
        assert got.headers["content-type"].startswith("text/markdown")
        assert got.headers["content-length"] == str(len(text))
        assert got.headers["etag"].startswith('"')
        assert got.text == (text if method == "GET" else "")
    page = service.ok("GET", f"{avatar}/documents", params={"limit": 1}).json()
    assert ([d["path"] for d in page["documents"]], page["next_after"]) == (["b.txt"], "b.txt")
    page = service.ok("GET", f"{avatar}/documents", params={"after": "b.txt"}).json()
    assert ([d["path"] for d in page["documents"]], page["next_after"]) == (["hand books/kettle.md"], None)
    report = service.ok("POST", f"{avatar}/ingest?wait_s=50").json()
    assert [(d["path"], d["status"]) for d in report["documents"]] == [
        ("b.txt", "ingested"),
        ("hand books/kettle.md", "ingested"),
    ]
    again = service.ok("POST", f"{avatar}/ingest?wait_s=50", json={}).json()
    assert {d["status"] for d in again["documents"]} == {"unchanged"}
    forced = service.ok("POST", f"{avatar}/ingest?wait_s=50", json={"paths": ["b.txt"], "force": True}).json()
    assert [(d["path"], d["status"]) for d in forced["documents"]] == [("b.txt", "ingested")]
    answer = service.ok("POST", f"{avatar}/query", json={"text": "How long is the guarantee?", "n_results": 1})
    passage = answer.json()["results"][0][0]
    assert passage["path"] == "hand books/kettle.md"
    assert text[passage["start"] : passage["end"]].strip() == passage["text"].strip()
    assert "two years" in passage["text"] and passage["distance"] > 0
    both = service.ok("POST", f"{avatar}/query", json={"texts": ["kettle", "cats"], "n_results": 1}).json()
    assert [matches[0]["path"] for matches in both["results"]] == ["hand books/kettle.md", "b.txt"]
    only = service.ok("POST", f"{avatar}/query", json={"text": "kettle", "where": {"path": "b.txt"}}).json()
    assert {p["path"] for p in only["results"][0]} == {"b.txt"}
    assert service.ok("DELETE", f"{avatar}/documents/b.txt").json()["deleted"] == 1
    service.problem("GET", f"{avatar}/documents/b.txt", "document-not-found")
    service.problem("DELETE", f"{avatar}/documents/b.txt", "document-not-found")
    left = service.ok("POST", f"{avatar}/query", json={"text": "cats", "n_results": 10}).json()["results"][0]
    assert {p["path"] for p in left} == {"hand books/kettle.md"}


def test_a_document_that_cannot_be_read_fails_alone(service: Service, user: str) -> None:
    """One bad document has its reason in the report, and the others are ingested."""
    avatar = f"/users/{user}/avatars/7"
    service.ok("PUT", f"{avatar}/documents/a.bin", content=b"\x00\x01")
    service.ok("PUT", f"{avatar}/documents/b.txt", content=b"Cats purr.")
    report = service.ok("POST", f"{avatar}/ingest?wait_s=50").json()["documents"]
    assert [(d["path"], d["status"]) for d in report] == [("a.bin", "failed"), ("b.txt", "ingested")]
    assert ".bin" in report[0]["reason"]


def test_avatars_are_listed_whether_they_have_collections_or_documents(service: Service, user: str) -> None:
    """An avatar is there with a collection, with a document, or with both; deleting it takes its collections."""
    service.ok("POST", f"/users/{user}/avatars/a/collections", json={"name": "notes"})
    service.ok("PUT", f"/users/{user}/avatars/b/documents/x.txt", content=b"Cats purr.")
    page = service.ok("GET", f"/users/{user}/avatars").json()
    assert [(a["avatar_id"], a["collections"]) for a in page["avatars"]] == [("a", 1), ("b", 0)]
    page = service.ok("GET", f"/users/{user}/avatars", params={"offset": 1, "limit": 1}).json()
    assert ([a["avatar_id"] for a in page["avatars"]], page["total"]) == (["b"], 2)
    assert service.ok("GET", f"/users/{user}/avatars/b").json()["records"] == 0
    service.ok("POST", f"/users/{user}/avatars/b/ingest?wait_s=50")
    assert service.ok("GET", f"/users/{user}/avatars/b").json() == {
        "avatar_id": "b",
        "collections": 1,
        "records": 1,
        "documents": 1,
    }
    service.ok("DELETE", f"/users/{user}/avatars/b")
    assert service.ok("GET", f"/users/{user}/avatars/b/documents/x.txt").text == "Cats purr."
    service.problem("POST", f"/users/{user}/avatars/b/query", "document-not-found", json={"text": "cats"})
    service.ok("DELETE", f"/users/{user}/avatars/b", params={"documents": "true"})
    service.problem("GET", f"/users/{user}/avatars/b", "avatar-not-found")
    assert service.ok("GET", f"/users/{user}/avatars/a/collections").json()["total"] == 1


def test_a_user_is_shown_and_deleted(service: Service, user: str) -> None:
    """A user's page says what is stored, the commit and the residency; deleting keeps source documents unless asked."""
    service.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
    service.ok("POST", f"/users/{user}/collections/notes/records", json={"records": NOTES})
    service.ok("PUT", f"/users/{user}/avatars/7/documents/x.txt", content=b"Cats purr.")
    shown = service.ok("GET", f"/users/{user}").json()
    assert (shown["user_id"], shown["commit"]) == (user, 2)
    assert (shown["stored"]["collections"], shown["stored"]["records"]) == (1, 3)
    assert (shown["residency"]["state"], shown["residency"]["commit"]) == ("ready", 2)
    assert service.ok("DELETE", f"/users/{user}").json()["deleted"] > 0
    service.problem("GET", f"/users/{user}/collections", "user-not-found")
    assert service.ok("GET", f"/users/{user}/avatars/7/documents/x.txt").text == "Cats purr."
    service.ok("DELETE", f"/users/{user}", params={"documents": "true"})
    service.problem("GET", f"/users/{user}", "user-not-found")
    service.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
    assert service.ok("GET", f"/users/{user}/collections/notes/count").json() == {"count": 0}


def test_operators_move_a_vectorstore_in_and_out(service: Service, user: str) -> None:
    """Hydrate, flush and evict answer where the vectorstore is, and the pool shows every slot."""
    service.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
    assert service.ok("POST", f"/admin/users/{user}/flush").json()["dirty"] is False
    assert service.ok("POST", f"/admin/users/{user}/evict").json()["state"] == "cold"
    slots = {slot["user_id"]: slot for slot in service.ok("GET", "/admin/pool").json()["slots"]}
    assert slots.get(user, {"state": "cold"})["state"] == "cold"
    hydrated = service.ok("POST", f"/admin/users/{user}/hydrate")
    assert (hydrated.json()["state"], hydrated.headers["x-vectorpool-commit"]) == ("ready", "1")
    view = service.ok("GET", "/admin/pool").json()
    assert {slot["user_id"]: slot["state"] for slot in view["slots"]}[user] == "ready"
    assert view["open_slots"] >= 1 and view["open_slots_limit"] >= 100


def test_the_pool_tells_what_the_store_was_asked_for(own_service: Service) -> None:
    """Requests by kind and bytes, over all shards: a write is one create, and a lost replica is loaded again."""
    users = [f"user-{number}" for number in range(6)]
    for user in users:
        own_service.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
    written = own_service.ok("GET", "/admin/pool").json()["store"]
    assert (written["requests"]["create"], written["failed"]) == (len(users), 0)
    assert written["bytes_sent"] > 0
    assert own_service.stop() == 0
    own_service.delete_replicas()
    own_service.start()
    for user in users:
        own_service.ok("POST", f"/admin/users/{user}/hydrate")
    loaded = own_service.ok("GET", "/admin/pool").json()["store"]
    assert loaded["requests"]["list_objects"] >= len(users)
    assert "create" not in loaded["requests"] and loaded["failed"] == 0
    assert loaded["bytes_received"] >= written["bytes_sent"]


def test_health(service: Service) -> None:
    """An instance that serves is alive and ready."""
    assert service.ok("GET", "/health/live").json() == {"status": "live"}
    assert service.ok("GET", "/health/ready").json() == {"status": "ready"}


def test_the_log_names_routes_and_no_user(service: Service, user: str) -> None:
    """Every request is one line with route, status and milliseconds, without the user's id."""
    service.problem("GET", f"/users/{user}-secret/collections/notes", "user-not-found")
    service.ok("GET", "/health/live")
    lines = [line for line in service.errors.splitlines() if "vectorpool.http" in line]
    assert any("method=GET route=/users/{user_id}/collections/{name} status=404 ms=" in line for line in lines)
    assert f"{user}-secret" not in service.errors
