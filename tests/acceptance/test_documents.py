"""Source documents over HTTP: what may name one, and what a deletion answers."""

from __future__ import annotations

from tests.support.service import Service


def test_deleting_a_document_that_was_never_ingested_is_a_success(service: Service, user: str) -> None:
    """The bytes went, so it is no 404; a second deletion finds nothing. With or without a vectorstore behind it."""
    documents = f"/users/{user}/avatars/7/documents"
    for _ in range(2):
        assert service.client.put(f"{documents}/a.txt", content=b"text").status_code == 201
        answer = service.client.delete(f"{documents}/a.txt")
        assert (answer.status_code, answer.json()) == (200, {"deleted": 0})
        assert service.client.delete(f"{documents}/a.txt").json()["code"] == "document-not-found"
        made = service.client.post(
            f"/users/{user}/avatars/7/collections", json={"name": "notes", "get_or_create": True}
        )
        assert made.status_code in (200, 201), made.text
