"""Documents over real HTTP: conditions, forms, and questions about an avatar that has nothing to ask."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.service import Service, run_cli


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    served = Service(tmp_path_factory.mktemp("service"), "--shards", "1").start()
    yield served
    served.close()


DOCUMENT = "/users/{user}/avatars/7/documents/a/b.txt"


def test_conditions_of_reads_are_honoured(service: Service, user: str) -> None:
    """If-None-Match of what the caller has is 304 without bytes, of another ETag 200; If-Match is 412 or 200."""
    path = DOCUMENT.format(user=user)
    service.ok("PUT", path, content=b"first")
    etag = service.ok("GET", path).headers["etag"]
    for method in ("GET", "HEAD"):
        for have in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            unchanged = service.request(method, path, headers={"if-none-match": have})
            assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
        assert service.request(method, path, headers={"if-none-match": '"other"'}).status_code == 200
        assert service.request(method, path, headers={"if-match": etag}).status_code == 200
        assert service.request(method, path, headers={"if-match": '"other"'}).status_code == 412
    assert service.problem("GET", path, "precondition-failed", headers={"if-match": '"other"'}).json()["etag"]
    service.problem("GET", path, "invalid-request", headers={"if-match": "no-quotes"})
    service.problem("GET", path + "x", "document-not-found", headers={"if-none-match": etag})


def test_conditions_of_writes_are_honoured(service: Service, user: str) -> None:
    """A write or a deletion for another state than the document's leaves it; for its own state it is done."""
    path = DOCUMENT.format(user=user)
    service.problem("PUT", path, "precondition-failed", headers={"if-match": '"none"'}, content=b"0")
    assert service.ok("PUT", path, headers={"if-none-match": "*"}, content=b"first").status_code == 201
    service.problem("PUT", path, "precondition-failed", headers={"if-none-match": "*"}, content=b"second")
    first = service.ok("GET", path).headers["etag"]
    assert service.ok("PUT", path, headers={"if-match": first}, content=b"second!").status_code == 200
    for method in ("PUT", "DELETE"):
        refused = service.problem(method, path, "precondition-failed", headers={"if-match": first}, content=b"third")
        assert refused.status_code == 412
    assert service.ok("GET", path).content == b"second!"
    service.ok("DELETE", path, headers={"if-match": service.ok("GET", path).headers["etag"]})
    service.problem("DELETE", path, "precondition-failed", headers={"if-match": "*"})


def test_no_update_is_lost_between_writers_with_conditions(
    service: Service, user: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Writers of two instances that each read a number and write the next one on condition count right."""
    path = DOCUMENT.format(user=user)
    service.ok("PUT", path, content=b"0")
    root = tmp_path_factory.mktemp("other")
    other = Service(root, "--shards", "1", store=service.store).start()
    writers, times = 4, 6

    def count(url: str) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            done = 0
            while done < times:
                read = client.get(path)
                number = str(int(read.content) + 1).encode()
                wrote = client.put(path, content=number, headers={"if-match": read.headers["etag"]})
                assert wrote.status_code in (200, 412, 409), wrote.text
                done += wrote.status_code == 200

    try:
        with ThreadPoolExecutor(writers) as threads:
            list(threads.map(count, [service.url, other.url] * (writers // 2)))
        assert service.ok("GET", path).content == str(writers * times).encode()
    finally:
        other.close()


def test_a_form_is_refused(service: Service, user: str, tmp_path: Path) -> None:
    """``curl -F file=@x -X PUT`` is told how to send the bytes alone, and nothing of its envelope is stored."""
    path = DOCUMENT.format(user=user)
    file = tmp_path / "x.txt"
    file.write_text("The bytes.\n")
    url = service.url.rstrip("/") + path
    curl = ["curl", "-s", "--noproxy", "*", "-X", "PUT", url]
    form = subprocess.run([*curl, "-F", f"file=@{file}"], capture_output=True, text=True, timeout=60, check=True)
    assert '"unsupported-format"' in form.stdout and "--data-binary" in form.stdout
    service.problem("GET", path, "document-not-found")
    subprocess.run([*curl, "--data-binary", f"@{file}"], capture_output=True, timeout=60, check=True)
    assert service.ok("GET", path).content == b"The bytes.\n"


def test_a_name_that_a_directory_cannot_hold_is_told(service: Service, user: str) -> None:
    """On a directory as store, a part over 255 bytes, a folder's name and a path below a document are refused so."""
    base = f"/users/{user}/avatars/7/documents"
    told = service.problem("PUT", f"{base}/{'n' * 256}", "invalid-id", content=b"x").json()["detail"]
    assert "longer than the file system" in told and "Shorten" in told
    service.problem("GET", f"{base}/{'n' * 256}", "document-not-found")
    service.ok("PUT", f"{base}/a/b.txt", content=b"x")
    for path in ("a", "a/b.txt/c"):
        refused = service.problem("PUT", f"{base}/{path}", "path-taken", content=b"y")
        assert refused.status_code == 409 and "Choose another name" in refused.json()["detail"]
    assert [d["path"] for d in service.ok("GET", base).json()["documents"]] == ["a/b.txt"]
    service.ok("PUT", f"{base}/{'n' * 255}", content=b"x")


def test_an_avatar_without_documents_is_told_so(service: Service, user: str) -> None:
    """A question says that nothing was ingested, and how to; it does not speak of collections to create."""
    ask = {"json": {"text": "How long is it?"}}
    detail = service.problem("POST", f"/users/{user}/avatars/7/query", "user-not-found", **ask).json()["detail"]
    assert "No document" in detail and "/avatars/7/ingest" in detail
    service.ok("POST", f"/users/{user}/avatars/7/collections", json={"name": "notes"})
    refused = service.problem("POST", f"/users/{user}/avatars/7/query", "document-not-found", **ask)
    assert refused.status_code == 404
    detail = refused.json()["detail"]
    assert "No document of avatar '7' was ingested" in detail and "/avatars/7/ingest" in detail
    assert "ollection" not in detail
    service.problem("POST", f"/users/{user}/avatars/8/query", "document-not-found", **ask)
    asked = run_cli("query", "How long?", "--user", user, "--avatar", "7", "--store", service.store)
    assert asked.returncode == 1 and "No document of avatar '7' was ingested" in asked.stderr
