"""Source documents over HTTP: what may name one, and what a deletion answers."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from tests.support.service import Service, run_cli


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


# What people name files: a Persian word with a joiner, a family of emoji, Windows' slash, spaces, a long title.
NAMES = [
    "می\u200cخواهم.txt",
    "👨\u200d👩\u200d👧 family.md",
    "a\\b.txt",
    " leading and trailing .txt ",
    "\ue000 private\u2028line.txt",
    "cafe\u0301.txt",
    "/".join(["kurz " + "ö" * 90] * 3) + ".txt",
]


def test_whatever_a_person_names_a_file_is_a_document(service: Service, user: str) -> None:
    """It is put, read, listed, ingested, found by a question, and deleted with its chunks."""
    home = f"/users/{user}/avatars/7"
    for number, name in enumerate(NAMES):
        url = f"{home}/documents/{quote(name)}"
        assert service.client.put(url, content=f"The password number {number} is w{number}x.").status_code == 201
        assert service.client.get(url).text.endswith(f"w{number}x.")
    listed = service.client.get(f"{home}/documents").json()
    assert [document["path"] for document in listed["documents"]] == sorted(NAMES)
    report = service.client.post(f"{home}/ingest?wait_s=50").json()
    # Where the name says no format, the bytes do.
    assert {d["path"]: d["status"] for d in report["documents"]} == dict.fromkeys(NAMES, "ingested")
    found = service.client.post(f"{home}/query", json={"text": "password", "n_results": len(NAMES)}).json()
    assert {passage["path"] for passage in found["results"][0]} == set(NAMES)
    for name in NAMES:
        assert service.client.delete(f"{home}/documents/{quote(name)}").json() == {"deleted": 1}
    assert service.client.get(f"{home}/documents").json() == {"documents": [], "next_after": None}


def test_what_no_request_can_name_is_reported_and_deleted_with_its_avatar(service: Service, user: str) -> None:
    """Put there by another program: listing and ingest name it, and ``documents=true`` leaves nothing behind."""
    home, folder = f"/users/{user}/avatars/7", Path(service.store) / "users" / user / "avatars"
    service.client.put(f"{home}/documents/good.txt", content=b"text")
    for path in ("7/vectorstore_data/line\nbreak.txt", "8\x01/vectorstore_data/x.txt"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")
    listed = service.client.get(f"{home}/documents").json()
    assert [document["path"] for document in listed["documents"]] == ["good.txt"]
    assert [refused["name"] for refused in listed["refused"]] == ["line\\x0abreak.txt"]
    avatars = service.client.get(f"/users/{user}/avatars").json()
    assert [avatar["avatar_id"] for avatar in avatars["avatars"]] == ["7"]
    assert [refused["name"] for refused in avatars["refused"]] == ["8\\x01"]
    report = service.client.post(f"{home}/ingest?wait_s=50").json()
    outcomes = {document["path"]: document for document in report["documents"]}
    assert outcomes["good.txt"]["status"] == "ingested"
    assert outcomes["line\\x0abreak.txt"]["code"] == "invalid-id" and outcomes["line\\x0abreak.txt"]["reason"]
    assert service.client.delete(f"{home}?documents=true").status_code == 200
    assert not (folder / "7").exists()
    assert service.client.delete(f"/users/{user}?documents=true").status_code == 200
    assert not folder.exists()


def test_a_deletion_has_a_receipt_and_is_listed(service: Service, user: str) -> None:
    """It counts the documents too. ``vectorpool users`` tells of the deletion, until the user comes back."""
    home = f"/users/{user}"
    for path in ("a.txt", "b.txt"):
        service.client.put(f"{home}/avatars/7/documents/{path}", content=b"text")
    service.client.post(f"{home}/avatars/7/ingest?wait_s=50")
    assert service.client.get(f"/admin{home}/deletion").json()["code"] == "deletion-not-found"
    assert service.client.delete(f"{home}?documents=true").status_code == 200
    receipt = service.client.get(f"/admin{home}/deletion").json()
    assert receipt["documents"] == 2 and receipt["objects"] >= 2 and receipt["verified_empty_at_ms"]
    listed = run_cli("users", "--store", service.store).stdout.splitlines()
    (line,) = [line for line in listed if line.split(" ")[0] == user]
    assert line.startswith(f"{user} (deleted 20") and line.endswith(" UTC, verified empty)")
    assert service.client.delete(f"{home}?documents=true").json()["code"] == "user-not-found"
    service.client.post(f"{home}/collections", json={"name": "notes"})
    assert user in run_cli("users", "--store", service.store).stdout.splitlines()


def test_names_that_are_no_ids_do_not_end_the_listing_of_users(service: Service, user: str) -> None:
    """``vectorpool users`` and ``scrub`` name them on stderr and go on."""
    service.client.post(f"/users/{user}/collections", json={"name": "notes"})
    folder = Path(service.store) / "users" / "line\nbreak" / "image"
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(b"x")
    listed = run_cli("users", "--store", service.store)
    assert user in listed.stdout.splitlines() and "users/line\\x0abreak: not a user id" in listed.stderr
    scrubbed = run_cli("scrub", "--all", "--store", service.store)
    assert scrubbed.returncode == 0 and f"{user}: intact at commit" in scrubbed.stdout
