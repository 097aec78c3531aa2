"""The browsers stage: foreign hosts and pages of other sites without tokens, pages that may call, safe headers."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.unit.api.parts import FakeRouter, application, talk
from tests.unit.front.parts import Answering, Sent, nothing, scope_of
from vectorpool.front.browsers import BrowsersStage, host_of, is_loopback, safe_headers
from vectorpool.settings import Settings

OURS = "localhost:8000"


async def ask(
    settings: Settings, path: str, method: str = "GET", *, has_tokens: bool = False, **headers: str
) -> tuple[Sent, Answering]:
    """Send a request to the stage alone."""
    inner, sent = Answering(), Sent()
    stage = BrowsersStage(inner, settings, lambda: has_tokens)
    await stage(scope_of(path, method, **headers), nothing, sent)
    return sent, inner


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("localhost.", True),
        ("tenant.localhost:80", True),
        ("127.0.0.1:8000", True),
        ("127.9.9.9", True),
        ("[::1]:8000", True),
        ("listed.example", True),
        ("LISTED.example:443", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("evil-localhost", False),
        ("127.0.0.1.evil.example", False),
        ("10.0.0.1", False),
        ("[::2]", False),
        ("[", False),
        ("", False),
        ("user@evil.example", False),
        ("evil.example#localhost", False),
    ],
)
async def test_a_foreign_host_is_refused_without_tokens(host: str, is_ours: bool) -> None:
    """Only this machine's names and those of allowed_hosts are answered, on both protocols; health always is."""
    settings = Settings(allowed_hosts="listed.example, other.example")
    for path, name in (("/users/42", "host-refused"), ("/api/v2/heartbeat", "AuthorizationError"), ("/schema", "")):
        sent, inner = await ask(settings, path, host=host)
        assert (sent.status, len(inner.seen)) == ((200, 1) if is_ours else (403, 0))
        if not is_ours and name:
            body = json.loads(sent.body)
            assert body.get("code", body.get("error")) == name
    for more in ({"has_tokens": True}, {}):
        opened = settings if more else Settings(insecure_open=True)
        assert (await ask(opened, "/users/42", host=host, **more))[0].status == 200  # type: ignore[arg-type]
    assert (await ask(settings, "/health/ready", host=host))[0].status == 200


async def test_two_hosts_are_refused() -> None:
    """A request that names two hosts means neither."""
    scope, sent = scope_of(host=OURS), Sent()
    scope["headers"].append((b"host", b"evil.example"))
    await BrowsersStage(Answering(), Settings(), lambda: False)(scope, nothing, sent)
    assert sent.status == 403


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({}, False),
        ({"origin": "http://localhost:8000"}, False),
        ({"origin": "http://localhost:8000", "sec_fetch_site": "same-origin"}, False),
        ({"origin": "http://localhost:3000"}, True),
        ({"origin": "http://localhost:3000", "sec_fetch_site": "same-site"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "http://localhost:8000.evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": "file://localhost:8000"}, True),
        ({"sec_fetch_site": "cross-site"}, True),
        ({"sec_fetch_site": "same-site"}, True),
        ({"sec_fetch_site": "same-origin"}, False),
        ({"sec_fetch_site": "none"}, False),
    ],
)
async def test_pages_of_other_sites_are_refused_without_tokens(headers: dict[str, str], is_refused: bool) -> None:
    """By Origin or by Sec-Fetch-Site, whatever the method; a link to the page of the interface is none of that."""
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        for path in ("/users/42", "/api/v2/reset"):
            sent, _ = await ask(Settings(), path, method, host=OURS, **headers)
            assert sent.status == (403 if is_refused else 200)
    assert (await ask(Settings(insecure_open=True), "/users/42", "POST", host=OURS, **headers))[0].status == 200
    assert (await ask(Settings(), "/users/42", "POST", has_tokens=True, host=OURS, **headers))[0].status == 200
    assert (await ask(Settings(), "/health/live", host=OURS, **headers))[0].status == 200
    if "origin" not in headers:
        assert (await ask(Settings(), "/schema", host=OURS, **headers))[0].status == 200


@pytest.mark.parametrize("has_tokens", [True, False])
async def test_pages_of_listed_origins_may_call(has_tokens: bool) -> None:
    """They get a preflight's answer and may read answers, refusals too; the pages of other origins may not."""
    settings = Settings(cors_origins="https://app.example, http://localhost:3000")
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,content-type"}
    asked["access_control_request_private_network"] = "true"
    for origin in ("https://app.example", "http://localhost:3000"):
        sent, inner = await ask(
            settings, "/users/42", "OPTIONS", has_tokens=has_tokens, host=OURS, origin=origin, **asked
        )
        assert (sent.status, inner.seen, sent.body) == (204, [], b"")
        assert sent.headers["access-control-allow-origin"] == origin
        assert sent.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "DELETE" in sent.headers["access-control-allow-methods"]
        assert sent.headers["access-control-allow-private-network"] == "true"
        sent, inner = await ask(
            settings, "/users/42", "POST", has_tokens=has_tokens, host=OURS, origin=origin, sec_fetch_site="cross-site"
        )
        assert (sent.status, len(inner.seen)) == (200, 1)
        assert sent.headers["access-control-allow-origin"] == origin and sent.headers["vary"] == "Origin"
        assert "X-Vectorpool-Commit" in sent.headers["access-control-expose-headers"]
    sent, _ = await ask(
        settings, "/users/42", "OPTIONS", has_tokens=has_tokens, host=OURS, origin="https://evil.example", **asked
    )
    assert "access-control-allow-origin" not in sent.headers
    assert sent.status == (200 if has_tokens else 403)


async def test_every_page_may_call_where_that_is_set() -> None:
    """A star is every origin."""
    sent, _ = await ask(Settings(cors_origins="*"), "/users/42", host=OURS, origin="https://any.example")
    assert (sent.status, sent.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("POST", "/users/42/collections", "text/plain", 415),
        ("POST", "/users/42/collections", "Text/Plain;charset=UTF-8", 415),
        ("DELETE", "/users/42/collections/notes/records", "text/plain", 415),
        ("PUT", "/users/42/collections/notes/records", "multipart/form-data; boundary=x", 415),
        ("POST", "/users/42/avatars/7/ingest", "text/plain", 415),
        ("POST", "/users/42/collections", "application/json", 200),
        ("POST", "/users/42/collections", "application/x-www-form-urlencoded", 200),
        ("PUT", "/users/42/avatars/7/documents/a.txt", "text/plain", 200),
        ("GET", "/users/42/collections", "text/plain", 200),
        # Chroma's routes refuse it in the words of Chroma's server.
        ("POST", "/api/v2/tenants", "text/plain", 200),
    ],
)
async def test_json_that_is_declared_as_text_is_refused(method: str, path: str, kind: str, status: int) -> None:
    """What a page can send without asking first is no JSON; what curl sends by itself is taken as before."""
    sent, _ = await ask(Settings(), path, method, host=OURS, content_type=kind)
    assert sent.status == status
    assert status == 200 or json.loads(sent.body)["code"] == "unsupported-format"


async def test_chromas_routes_refuse_text_themselves() -> None:
    """In the pipeline a body of Chroma's protocol that is declared as text is a 415."""
    async with talk(application(FakeRouter())) as client:
        headers = {"content-type": "text/plain"}
        for path in ("/api/v2/tenants", "/api/v2/tenants/42/databases/default_database/collections"):
            assert (await client.post(path, content=b'{"name": "notes"}', headers=headers)).status_code == 415


async def test_every_answer_has_safe_headers() -> None:
    """Also refusals, defects and answers of the short path: no answer is a page, except that of the interface."""
    app = application(FakeRouter())

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a defect")

    async with talk(app) as client:
        paths = ("/health/live", "/users/42", "/nonesuch", "/users/42/collections/notes/count", "/users/%ff", "/api/v2")
        answers = [await client.get(path) for path in paths]
        answers.append(await client.get("/users/42", headers={"host": "evil.example"}))
        answers.append(await client.get("/schema/openapi.json"))
        page = await client.get("/schema")
        app.metering._inner = broken
        answers.append(await client.get("/users/42"))
    assert [answer.status_code for answer in answers][-3:] == [403, 200, 500]
    for answer in answers:
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'; sandbox"
    for answer in (*answers, page):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "style-src 'unsafe-inline'" in page.headers["content-security-policy"]
    assert "script" not in page.headers["content-security-policy"] and "<script" not in page.text


@pytest.mark.parametrize("name", ["page.html", "a/b c.svg", "\u00fcber'x\".html"])
async def test_a_document_is_never_a_page(name: str) -> None:
    """It is an attachment, whatever is in it, by GET and by HEAD."""
    async with talk(application(FakeRouter())) as client:
        path = f"/users/42/avatars/7/documents/{quote(name)}"
        await client.put(path, content=b"<script>alert(1)</script>")
        for answer in (await client.get(path), await client.head(path)):
            assert answer.status_code == 200
            last = quote(name.rpartition("/")[2], safe="")
            assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{last}"
            assert "sandbox" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_hosts() -> None:
    """What is no host has no name, and names that only look like this machine's are not."""
    assert host_of("[::1]:8000") == "::1" and host_of("A.B.:1") == "a.b" and host_of(":80") is None
    assert is_loopback("a.localhost") and not is_loopback("localhost.a") and not is_loopback("0.0.0.0")
    assert (
        dict(safe_headers("/schema/"))[b"content-security-policy"]
        != dict(safe_headers("/schema/openapi.json"))[b"content-security-policy"]
    )
