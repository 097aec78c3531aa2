"""Tokens over real HTTP: who gets in, how far, what a refusal says, and that a token appears nowhere else."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import chromadb
import httpx
import pytest
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import AuthorizationError, ChromaAuthError

from tests.support.service import Service, run_cli

ALICE, BOB = "alice@x.io", "bob"


class Tokens:
    """A tokens file made by the command line, and the tokens that only whoever ran it has seen."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens.toml"
        self.file.touch()
        self.alice = self._make("alice", "--user", ALICE)
        self.both = self._make("both", "--user", ALICE, "--user", BOB)
        self.everybody = self._make("backend", "--every-user")
        self.operator = self._make("operator", "--admin")
        self.all = (self.alice, self.both, self.everybody, self.operator)

    def _make(self, *arguments: str) -> str:
        done = run_cli("token", *arguments)
        assert done.returncode == 0, done.stderr
        token = done.stderr.split()[-1]
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
        assert token not in done.stdout
        with self.file.open("a") as file:
            file.write(done.stdout)
        return token


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return Tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tokens: Tokens) -> Iterator[Service]:
    """A service that asks for tokens and logs all that it can; alice and bob have a collection each."""
    flags = ["--tokens-file", str(tokens.file), "--log-level", "debug", "--shards", "1"]
    served = Service(tmp_path_factory.mktemp("service"), *flags).start()
    for user in (ALICE, BOB):
        served.ok("POST", f"/users/{user}/collections", json={"name": "notes"}, headers=bearer(tokens.everybody))
    yield served
    served.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_reaches_its_users_and_no_other(service: Service, tokens: Tokens) -> None:
    """Either header lets alice's token into what is alice's; for bob it is 403, and the same for nobody."""
    for headers in (bearer(tokens.alice), {"X-Chroma-Token": tokens.alice}):
        assert service.ok("GET", f"/users/{ALICE}/collections/notes/count", headers=headers).json() == {"count": 0}
        service.ok("GET", "/users/alice%40x.io/collections", headers=headers)
        refusals = []
        for user in (BOB, "nobody-at-all"):
            for method, rest in (("GET", ""), ("GET", "/collections/notes/count"), ("DELETE", ""), ("GET", "/lost")):
                response = service.problem(method, f"/users/{user}{rest}", "forbidden", headers=headers)
                assert response.status_code == 403
                refusals.append((response.json()["detail"], sorted(response.headers.keys())))
        assert all(refusal == refusals[0] for refusal in refusals), "a refusal tells who exists"
    for token in (tokens.both, tokens.everybody):
        service.ok("GET", f"/users/{BOB}/collections/notes/count", headers=bearer(token))


def test_without_a_known_token_it_is_401(service: Service, tokens: Tokens) -> None:
    """No token and a wrong one are refused everywhere but where everybody may look."""
    for headers in ({}, bearer("wrong"), {"X-Chroma-Token": "wrong"}, {"Authorization": tokens.alice}):
        for path in (f"/users/{ALICE}", f"/users/{ALICE}/collections", "/admin/pool", "/users", "/nonesuch"):
            response = service.problem("GET", path, "unauthenticated", headers=headers)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    for path in ("/health/live", "/health/ready", "/schema", "/schema/openapi.json"):
        service.ok("GET", path)


def test_a_refused_body_does_not_disturb_the_connection(service: Service, tokens: Tokens) -> None:
    """A body of megabytes that nobody reads is refused, and the next request is answered."""
    path = f"/users/{BOB}/avatars/7/documents/big.txt"
    for _ in range(3):
        response = service.request("PUT", path, content=b"x" * 3_000_000, headers=bearer(tokens.alice))
        assert response.status_code == 403
        service.ok("GET", f"/users/{ALICE}/collections", headers=bearer(tokens.alice))
    service.problem("GET", path, "document-not-found", headers=bearer(tokens.both))


def test_only_an_operator_operates(service: Service, tokens: Tokens) -> None:
    """``/admin`` takes an operator's token alone, which in turn opens nobody's data."""
    for token in (tokens.alice, tokens.everybody):
        for method, path in (("GET", "/admin/pool"), ("POST", f"/admin/users/{ALICE}/evict"), ("GET", "/users")):
            assert service.problem(method, path, "forbidden", headers=bearer(token)).status_code == 403
    pool = service.ok("GET", "/admin/pool", headers=bearer(tokens.operator)).text
    assert not any(token in pool for token in tokens.all)
    service.ok("POST", f"/admin/users/{BOB}/hydrate", headers=bearer(tokens.operator))
    service.problem("GET", f"/users/{BOB}/collections", "forbidden", headers=bearer(tokens.operator))


def test_a_fork_needs_both_users(service: Service, tokens: Tokens) -> None:
    """A token that may touch the source alone forks nothing into another user, nor out of one."""
    target = {"user_id": "carol"}
    service.problem("POST", f"/users/{ALICE}/fork", "forbidden", json=target, headers=bearer(tokens.both))
    service.problem("POST", f"/users/{BOB}/fork", "forbidden", json={"user_id": ALICE}, headers=bearer(tokens.alice))
    service.problem("GET", "/users/carol", "user-not-found", headers=bearer(tokens.everybody))
    service.ok("POST", f"/users/{ALICE}/fork", json=target, headers=bearer(tokens.everybody))


def raw(service: Service, request_line: str, token: str) -> tuple[int, str]:
    """Send a request line as it stands, which an HTTP client would tidy first."""
    url = urlsplit(service.url)
    assert url.hostname and url.port
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        head = f"{request_line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return int(answer.split()[1]), answer.decode()


@pytest.mark.parametrize(
    "path",
    [
        "/users/bob",
        "/users/%62ob",
        "/users/bob/",
        "/users/bob//",
        "//users/bob",
        "/users//bob",
        "//users//bob",
        "///users///bob///collections",
        "/%75sers/bob",
        "/%75sers//bob/collections",
        "/users%2Fbob",
        "/users/%2Fbob",
        "/users/alice%40x.io/../bob",
        "/users/alice%40x.io/%2e%2e/bob/collections",
        "/users/alice%40x.io%2F..%2F..%2Fusers%2Fbob",
        "/users/./bob",
        "/health/../users/bob",
        "/schema/..%2Fusers%2Fbob",
        "/users/bob?user_id=alice%40x.io",
        "/users/bob;alice%40x.io/collections",
        "/users/BOB",
        "/Users/bob",
        "/users/%2562ob",
        "/users/bob%00",
        "http://x/users/bob",
        "/admin/users/alice%40x.io/scrub",
        "/%61dmin/pool",
        "//admin//pool",
        "/api/v2/tenants/bob/databases",
        "/api/v2/tenants/%62ob",
        "/api//v2/tenants/bob",
        "/api/v2/heartbeat/../tenants/bob",
    ],
)
def test_no_spelling_leads_past_the_token(service: Service, tokens: Tokens, path: str) -> None:
    """However bob's place is written, alice's token gets a refusal that says nothing about bob."""
    for method in ("GET", "DELETE", "POST"):
        status, answer = raw(service, f"{method} {path}", tokens.alice)
        assert status in (400, 403, 404, 405), answer
        assert "notes" not in answer.partition("\r\n\r\n")[2]
    # And bob still has what bob had.
    service.ok("GET", f"/users/{BOB}/collections/notes/count", headers=bearer(tokens.both))


def chroma_settings(token: str, header: str) -> ChromaSettings:
    return ChromaSettings(
        anonymized_telemetry=False,
        chroma_client_auth_provider="chromadb.auth.token_authn.TokenAuthClientProvider",
        chroma_client_auth_credentials=token,
        chroma_auth_token_transport_header=header,
    )


@pytest.mark.parametrize("header", ["Authorization", "X-Chroma-Token"])
def test_chromas_client_understands_a_refusal(service: Service, tokens: Tokens, header: str) -> None:
    """The official client raises its own exceptions: one for no known token, one for another's tenant."""
    url = urlsplit(service.url)
    for token, error in (("wrong", ChromaAuthError), (tokens.alice, AuthorizationError)):
        admin = chromadb.AdminClient(
            ChromaSettings(
                **{
                    **chroma_settings(token, header).model_dump(exclude_unset=True),
                    "chroma_api_impl": "chromadb.api.fastapi.FastAPI",
                    "chroma_server_host": url.hostname,
                    "chroma_server_http_port": url.port,
                }
            )
        )
        with pytest.raises(error):
            admin.get_tenant(BOB)


def test_what_chromas_servers_leave_open_asks_nobody(service: Service, tokens: Tokens) -> None:
    """Heartbeat and its like are never 401; the rest of the protocol is, in Chroma's own form."""
    for path in ("", "/heartbeat", "/version", "/healthcheck", "/pre-flight-checks"):
        assert service.request("GET", f"/api/v2{path}").status_code not in (401, 403)
    for path in ("/auth/identity", f"/tenants/{BOB}", "/tenants", "/reset", "/collections/x", "/nonesuch"):
        response = service.request("GET", f"/api/v2{path}")
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert response.headers["content-type"] == "application/json"
        assert response.json()["error"] == "AuthError" and set(response.json()) == {"error", "message"}
    refused = service.request("GET", f"/api/v2/tenants/{BOB}", headers=bearer(tokens.alice))
    assert (refused.status_code, refused.json()["error"]) == (403, "AuthorizationError")


def test_tokens_are_written_nowhere(service: Service, tokens: Tokens) -> None:
    """No token is in the file, in what the service prints and logs, or in an answer, whatever it is sent with."""
    presented = "a-token-that-nobody-knows"
    answers = []
    for token in (*tokens.all, presented):
        for headers in (bearer(token), {"X-Chroma-Token": token}):
            for method, path in (("GET", f"/users/{ALICE}"), ("POST", f"/users/{ALICE}/query"), ("GET", "/admin/pool")):
                answers.append(service.request(method, path, headers=headers))
    told = "".join(answer.text + str(answer.headers) for answer in answers)
    told += service.errors + "".join(service.output) + tokens.file.read_text()
    assert '"route":"/users/{user_id}' in told, "the log is looked at"
    assert not [token for token in (*tokens.all, presented) if token in told]


def test_the_start_says_whether_tokens_are_asked_for(service: Service) -> None:
    """Who starts the service sees how many tokens are known, and a first request that has one."""
    said = "".join(service.output)
    assert "asked for; 4 known" in said
    assert 'curl -H "Authorization: Bearer $TOKEN"' in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("", "names no token"),
        ("[tokens.alice]\nsha256 = 'hunter2'\nusers = ['42']\n", "64 hex digits"),
        ("[tokens.alice\n", "not valid TOML"),
    ],
)
def test_a_tokens_file_that_cannot_be_meant_stops_the_start(tmp_path: Path, text: str | None, said: str) -> None:
    """Exit code 2 and one sentence, before anything is listened on; what may be a secret is not repeated."""
    file = tmp_path / "tokens.toml"
    if text is not None:
        file.write_text(text)
    done = run_cli("serve", "--tokens-file", str(file), "--port", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and said in lines[0] and str(file) in lines[0], done.stderr
    assert "hunter2" not in done.stderr
    assert not (tmp_path / ".vectorpool").exists()


def test_two_tokens_are_never_the_same() -> None:
    """Each call makes another token, and one that allows nothing is not made."""
    assert len({run_cli("token", "a", "--admin").stderr.split()[-1] for _ in range(3)}) == 3
    for arguments in (["a"], ["a", "--user", "42", "--every-user"]):
        done = run_cli("token", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
    assert run_cli("token", "no good", "--admin").returncode == 2
    assert run_cli("token", "a", "--user", "a/b").returncode != 0


def test_an_empty_setting_asks_nobody(tmp_path: Path) -> None:
    """VECTORPOOL_TOKENS_FILE without text is as if it were not there."""
    served = Service(tmp_path, "--shards", "1", env={"VECTORPOOL_TOKENS_FILE": ""}).start()
    try:
        assert "not asked for" in "".join(served.output)
        served.ok("POST", "/users/42/collections", json={"name": "notes"})
        response = httpx.get(f"{served.url}/users/42/collections", headers=bearer("whatever"))
        assert json.loads(response.content)["collections"]
    finally:
        served.close()


def test_a_hang_up_reads_the_tokens_again(tmp_path: Path) -> None:
    """After SIGHUP the service goes on with the file's new tokens, its shards too; SIGQUIT then drains it."""
    tokens = Tokens(tmp_path)
    whole = tokens.file.read_text()
    tokens.file.write_text(whole.replace("[tokens.both]", "[tokens.former]").replace(f'"{BOB}"', '"nobody"'))
    served = Service(tmp_path, "--shards", "1", "--tokens-file", str(tokens.file)).start()
    try:
        served.problem("GET", f"/users/{BOB}/collections", "forbidden", headers=bearer(tokens.both))
        collection = {"json": {"name": "notes"}, "headers": bearer(tokens.everybody)}
        served.ok("POST", f"/users/{BOB}/collections", **collection)
        tokens.file.write_text(whole)
        # The whole group, as a closed terminal sends it.
        os.killpg(served.pid, signal.SIGHUP)
        for _ in range(200):
            if served.request("GET", f"/users/{BOB}/collections", headers=bearer(tokens.both)).status_code == 200:
                break
            time.sleep(0.05)
        served.ok("GET", f"/users/{BOB}/collections", headers=bearer(tokens.both))
        assert "died" not in served.errors
        os.kill(served.pid, signal.SIGQUIT)
        assert served.wait() == 0, served.errors
        assert "responses by status" in served.errors
    finally:
        served.close()
