"""Web pages against a real server: foreign hosts and sites, pages that may call, and an instance that is open."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import chromadb
import httpx
import pytest

from tests.support.raw_http import ask
from tests.support.service import Service, run_cli

ROOT = Path(__file__).parents[2]
JSON = "application/json"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without tokens, with one page that may call."""
    flags = ["--shards", "1", "--cors-origins", "https://app.example", "--allowed-hosts", "vectors.example"]
    served = Service(tmp_path_factory.mktemp("browsers"), *flags).start()
    served.ok("POST", "/users/42/collections", json={"name": "notes"})
    yield served
    served.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:8000"},
        {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
    ],
)
def test_a_page_of_another_site_changes_nothing(service: Service, headers: dict[str, str]) -> None:
    """A rebound name and another site's requests are 403 in the form of the path's protocol; health is answered."""
    body = json.dumps({"name": "written-by-a-page"}).encode()
    sent = {"content_type": JSON, **headers}
    native = ask(service.url, "POST /users/42/collections", body, **sent)
    assert (native.status, native.code) == (403, "host-refused")
    chroma = "/api/v2/tenants/42/databases/default_database/collections"
    answer = ask(service.url, f"POST {chroma}", body, **sent)
    assert (answer.status, answer.code) == (403, "AuthorizationError")
    assert ask(service.url, "GET /health/ready", **headers).status == 200
    names = [entry["name"] for entry in service.ok("GET", "/users/42/collections").json()["collections"]]
    assert names == ["notes"]


def test_json_as_text_is_refused(service: Service) -> None:
    """A body that a page could send without asking first is 415, and changes nothing."""
    body = json.dumps({"name": "written-as-text"}).encode()
    for path in ("/users/42/collections", "/api/v2/tenants/42/databases/default_database/collections"):
        assert ask(service.url, f"POST {path}", body, content_type="text/plain").status == 415
    service.problem("GET", "/users/42/collections/written-as-text", "collection-not-found")


def test_callers_that_are_no_pages_are_answered(service: Service) -> None:
    """Chroma's own client, curl's default type, listed hosts, and the pages of a listed origin."""
    address = httpx.URL(service.url)
    for host in ("localhost", "127.0.0.1"):
        client = chromadb.HttpClient(host=host, port=address.port or 80, tenant="42")
        client.get_or_create_collection("notes").upsert(ids=["a"], embeddings=[[1.0, 0.0]])
    form = "application/x-www-form-urlencoded"
    assert ask(service.url, "POST /users/42/collections/notes/records/get", b"{}", content_type=form).status == 200
    assert ask(service.url, "GET /users/42", host="vectors.example").status == 200
    page = {"origin": "https://app.example", "sec_fetch_site": "cross-site"}
    asked = ask(service.url, "OPTIONS /users/42/collections", access_control_request_method="POST", **page)
    assert (asked.status, asked.headers["access-control-allow-origin"]) == (204, "https://app.example")
    answer = ask(service.url, "POST /users/42/collections/notes/records/get", b"{}", content_type=JSON, **page)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert ask(service.url, "GET /users/nobody", **page).headers["access-control-allow-origin"] == "https://app.example"


def test_a_document_is_an_attachment(service: Service) -> None:
    """HTML that a caller put is never shown as a page of the service."""
    path = "/users/42/avatars/7/documents/page.html"
    service.ok("PUT", path, content=b"<script>alert(1)</script>")
    for method in ("GET", "HEAD"):
        headers = service.ok(method, path).headers
        assert headers["content-disposition"] == "attachment; filename*=UTF-8''page.html"
        assert headers["x-content-type-options"] == "nosniff"
        assert (
            "sandbox" in headers["content-security-policy"] and "script-src" not in headers["content-security-policy"]
        )


def test_safe_headers_are_in_every_answer(service: Service) -> None:
    """Also in what the parser refuses."""
    for line in (
        "GET /health/live",
        "GET /users/none",
        "GET /api/v2/nonesuch",
        "GET /users/%ff",
        "GET /users/\xff",
        "NO",
    ):
        headers = ask(service.url, line).headers
        assert headers["x-content-type-options"] == "nosniff", line
        assert "content-security-policy" in headers and "referrer-policy" in headers


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_instance_must_be_meant(tmp_path: Path, host: str) -> None:
    """On other addresses than the loopback it starts with tokens, or with --insecure-open, which it says aloud."""
    refused = run_cli("serve", "--host", host, "--port", "0", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    (sentence,) = refused.stderr.strip().splitlines()
    assert "--insecure-open" in sentence and "--tokens-file" in sentence
    assert not (tmp_path / ".vectorpool").exists()
    service = Service(tmp_path, "--host", host, "--shards", "1", "--insecure-open").start()
    try:
        assert "EVERYONE" in "".join(service.output) and "insecure_open" in service.errors
        url = f"http://127.0.0.1:{httpx.URL(service.url).port}"
        page = {"host": "evil.example", "origin": "https://evil.example", "sec_fetch_site": "cross-site"}
        body = json.dumps({"name": "notes"}).encode()
        assert ask(url, "POST /users/42/collections", body, content_type=JSON, **page).status == 201
    finally:
        service.close()


def test_with_tokens_any_host_is_answered(tmp_path: Path) -> None:
    """On every address, by any name and for any page that has a token; without one it is 401, not 403."""
    made = run_cli("token", "backend", "--every-user")
    (tmp_path / "tokens.toml").write_text(made.stdout)
    token = {"authorization": f"Bearer {made.stderr.split()[-1]}"}
    flags = ["--host", "0.0.0.0", "--shards", "1", "--tokens-file", str(tmp_path / "tokens.toml")]
    service = Service(tmp_path, *flags).start()
    try:
        url = f"http://127.0.0.1:{httpx.URL(service.url).port}"
        page = {"host": "vectors.example", "origin": "https://app.example", "sec_fetch_site": "cross-site"}
        assert ask(url, "GET /users/42", **page).status == 401
        assert ask(url, "GET /users/42", **page, **token).status in (200, 404)
    finally:
        service.close()


def test_the_documented_ways_to_start_it() -> None:
    """The lines of a first try say that they are open; compose asks for the token that it names."""
    for document in ("README.md", "deploy/README.md"):
        text = (ROOT / document).read_text()
        lines = re.findall(r"docker run (?:.*\\\n)*.* vectorpool$", text, re.MULTILINE)
        assert lines
        for line in lines:
            assert "VECTORPOOL_INSECURE_OPEN=true" in line or "VECTORPOOL_TOKENS_FILE" in line, line
    compose = (ROOT / "compose.yaml").read_text()
    assert "VECTORPOOL_TOKENS_FILE: /etc/vectorpool/tokens.toml" in compose and "INSECURE" not in compose
    named = re.search(r"Bearer (\S+)\"", compose)
    table = tomllib.loads((ROOT / "deploy" / "compose" / "tokens.toml").read_text())
    assert named and table["tokens"]["try"]["sha256"] == hashlib.sha256(named[1].encode()).hexdigest()
    for service in (ROOT / "deploy" / "cloudrun").glob("service-*.yaml"):
        assert "name: VECTORPOOL_TOKEN_SECRET_FILE" in service.read_text()
