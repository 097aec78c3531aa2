"""Ids in bytes that are not UTF-8: refused on both protocols, with tokens and without, for users and for documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.raw_http import ask
from tests.support.service import Service, run_cli

# Latin-1, stray continuation bytes, an overlong slash, half a surrogate pair; all were the same character once.
NO_UTF8 = ["J%F6rg", "J%E4rg", "%ff", "%fe", "%80", "%c0%af", "%ed%a0%80", "a%c3"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """A service that asks for tokens, and one that may touch every user."""
    folder = tmp_path_factory.mktemp("tokens")
    made = run_cli("token", "backend", "--every-user")
    (folder / "tokens.toml").write_text(made.stdout)
    served = Service(folder, "--tokens-file", str(folder / "tokens.toml"), "--shards", "1").start()
    yield served, f"Bearer {made.stderr.split()[-1]}"
    served.close()


def _targets(name: str) -> list[tuple[str, str]]:
    return [
        ("GET", f"/users/{name}"),
        ("DELETE", f"/users/{name}"),
        ("POST", f"/users/{name}/collections"),
        ("GET", f"/users/42/collections/{name}"),
        ("GET", f"/users/42/avatars/{name}/collections"),
        ("PUT", f"/users/42/avatars/7/documents/{name}.txt"),
        ("GET", f"/users/42/avatars/7/documents/a/{name}.txt"),
        ("GET", f"/users/42/avatars/7/documents?after={name}"),
        ("GET", f"/users?{name}=1"),
        ("GET", f"/admin/users/{name}"),
        ("GET", f"/api/v2/tenants/{name}"),
        ("GET", f"/api/v2/tenants/{name}/databases/default_database/collections"),
        ("GET", f"/api/v2/tenants/42/databases/{name}"),
        ("POST", f"/api/v2/tenants/42/databases/{name}/collections"),
        ("GET", f"/api/v2/tenants/42/databases/default_database/collections?limit={name}"),
        ("GET", f"/health/live?{name}"),
    ]


@pytest.mark.parametrize("name", NO_UTF8)
def test_bytes_that_are_not_utf8_are_refused(service: Service, guarded: tuple[Service, str], name: str) -> None:
    """On every kind of route they are a 400 in the form of the path's protocol, with tokens as without."""
    with_tokens, token = guarded
    for method, path in _targets(name):
        for url, headers in ((service.url, {}), (with_tokens.url, {"authorization": token})):
            answer = ask(url, f"{method} {path}", **headers)
            assert answer.status == 400, (method, path)
            expected = ("InvalidArgumentError",) if path.startswith("/api") else ("invalid-id", "invalid-request")
            assert answer.code in expected, (method, path)
            assert b"not UTF-8" in answer.body


def test_two_names_are_two_users(service: Service) -> None:
    """What UTF-8 tells apart stays apart, and no user has the name of the replaced character."""
    for name in ("J%C3%B6rg", "J%C3%A4rg"):
        service.ok("POST", f"/users/{name}/collections", json={"name": "notes"})
    assert ask(service.url, "PUT /users/J%F6rg/avatars/7/documents/x.txt", b"x").status == 400
    service.problem("GET", "/users/J%EF%BF%BDrg", "user-not-found")
    stored = {entry.name for entry in (Path(service.store) / "users").iterdir()}
    assert {"J\u00f6rg", "J\u00e4rg"} <= stored and not any("\ufffd" in name for name in stored)
