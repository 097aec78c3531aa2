"""Signed tokens over real HTTP: both protocols, Chroma's own client, the command line, and what is revoked."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromadb
import httpx
import pytest
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError

from tests.acceptance.test_tokens import bearer
from tests.support.service import Service, run_cli
from tests.support.tokens import ISSUER, OTHER_SECRET, SECRET, jwk, jwks, provider_token

ADMIN_KEY = "an-admin-key-of-enough-bytes-0123456789"
ALICE, BOB = "alice@x.io", "bob"
DATABASES = f"/api/v2/tenants/{ALICE}/databases"


class Signed:
    """A service that knows a secret, a provider and an admin key, and makes tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "jwks.json").write_bytes(jwks(jwk("ES256", "es"), jwk("RS256", "rs"), jwk("EdDSA", "ed")))
        (folder / "secret").write_text(f"k1:{SECRET}\n")
        self.service = Service(
            folder,
            *("--token-secret-file", str(folder / "secret"), "--token-jwks", str(folder / "jwks.json")),
            *("--token-issuer", ISSUER, "--token-audience", "vectorpool", "--token-claim-users", "sub"),
            *("--log-level", "debug", "--shards", "1"),
            env={"VECTORPOOL_ADMIN_KEY": ADMIN_KEY},
        ).start()
        self.made: list[str] = []

    def token(self, **grant: Any) -> str:
        answer = self.service.ok("POST", "/admin/tokens", json=grant, headers=bearer(ADMIN_KEY))
        assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
        self.made.append(answer.json()["token"])
        return self.made[-1]

    def client(self, token: str, database: str) -> Any:
        url = httpx.URL(self.service.url)
        return chromadb.HttpClient(
            url.host,
            url.port,
            tenant=ALICE,
            database=database,
            headers=bearer(token),
            settings=ChromaSettings(anonymized_telemetry=False),
        )


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    """Alice has a collection of two records in each of three places: her own, avatar 7 and avatar 8."""
    made = Signed(tmp_path_factory.mktemp("signed"))
    writer = bearer(made.token(users=[ALICE, BOB], access="write"))
    for base in (f"/users/{ALICE}", f"/users/{ALICE}/avatars/7", f"/users/{ALICE}/avatars/8", f"/users/{BOB}"):
        made.service.ok("POST", f"{base}/collections", json={"name": "notes"}, headers=writer)
        records = [{"id": each, "embedding": [1, 2], "document": f"{base} {each}"} for each in "ab"]
        made.service.ok("PUT", f"{base}/collections/notes/records", json={"records": records}, headers=writer)
    yield made
    made.service.close()


def ids_of(signed: Signed) -> dict[str, str]:
    """Return the ids of alice's collections by their databases."""
    reader = bearer(signed.token(users=[ALICE]))
    found = {}
    for database in ("default_database", "avatar-7", "avatar-8"):
        collections = signed.service.ok("GET", f"{DATABASES}/{database}/collections", headers=reader).json()
        found[database] = collections[0]["id"]
    return found


def state_of(signed: Signed) -> tuple[int, str]:
    """Return alice's newest commit, and all that her collections hold."""
    reader = bearer(signed.token(users=[ALICE]))
    commit = signed.service.ok("GET", f"/users/{ALICE}", headers=reader).json()["commit"]
    texts = [
        signed.service.ok("POST", f"{DATABASES}/{database}/collections/{each}/get", json={}, headers=reader).text
        for database, each in ids_of(signed).items()
    ]
    return commit, "".join(texts)


def test_the_start_says_which_tokens_are_known(signed: Signed) -> None:
    """All kinds are named, and no secret is."""
    said = "".join(signed.service.output)
    assert "asked for; JWT by secret, JWT by JWKS, an admin key" in said
    assert SECRET not in said and ADMIN_KEY not in said


@pytest.mark.parametrize(("algorithm", "key_id"), [("ES256", "es"), ("RS256", "rs"), ("EdDSA", "ed")])
def test_a_providers_token_reaches_its_user(signed: Signed, algorithm: str, key_id: str) -> None:
    """By either header the sub is the user, who reads, and writes if the claim says so; bob's is 403."""
    claims = {"sub": ALICE, "iss": ISSUER, "aud": "vectorpool", "exp": time.time() + 60}
    token = provider_token(claims, algorithm, key_id).decode()
    for headers in (bearer(token), {"X-Chroma-Token": token}):
        path = f"/users/{ALICE}/collections/notes"
        assert signed.service.ok("GET", f"{path}/count", headers=headers).json() == {"count": 2}
        signed.service.problem("DELETE", path, "forbidden", headers=headers)
        signed.service.problem("GET", f"/users/{BOB}/collections/notes/count", "forbidden", headers=headers)
        signed.service.problem("GET", "/admin/pool", "forbidden", headers=headers)
    for wrong in ({"aud": "another"}, {"iss": "https://other/"}, {"exp": time.time() - 61}, {"sub": "*"}):
        refused = provider_token(claims | wrong, algorithm, key_id).decode()
        signed.service.problem("GET", f"/users/{ALICE}", "unauthenticated", headers=bearer(refused))
        below = signed.service.request("GET", f"/api/v2/tenants/{ALICE}", headers=bearer(refused))
        assert (below.status_code, below.json()["error"]) == (401, "AuthError")
        assert below.headers["www-authenticate"] == "Bearer"


def test_a_reader_writes_nothing(signed: Signed) -> None:
    """Reads of both protocols answer, writes of both are 403 in their protocol's form, and no commit is made."""
    before, collection = state_of(signed), ids_of(signed)["default_database"]
    headers = bearer(signed.token(users=[ALICE, "nobody-yet"]))
    native, chroma = f"/users/{ALICE}/collections/notes", f"{DATABASES}/default_database/collections/{collection}"
    signed.service.ok("POST", f"{native}/query", json={"embeddings": [[1, 2]]}, headers=headers)
    signed.service.ok("POST", f"{native}/records/get", json={}, headers=headers)
    for operation, body in (("query", {"query_embeddings": [[1, 2]]}), ("get", {})):
        signed.service.ok("POST", f"{chroma}/{operation}", json=body, headers=headers)
    records = {"records": [{"id": "x", "embedding": [1, 2]}]}
    for method, path in (("PUT", f"{native}/records"), ("POST", f"{native}/records"), ("DELETE", native)):
        signed.service.problem(method, path, "forbidden", json=records, headers=headers)
    for operation in ("add", "upsert", "update", "delete"):
        body = {"ids": ["a"], "embeddings": [[1, 2]]}
        refused = signed.service.request("POST", f"{chroma}/{operation}", json=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]) == (403, "AuthorizationError")
    # What auto_create would create at a first request.
    assert signed.service.request("GET", f"{DATABASES}/avatar-new", headers=headers).status_code == 404
    nobody = "/api/v2/tenants/nobody-yet/databases"
    assert signed.service.request("GET", f"{nobody}/default_database", headers=headers).status_code == 404
    assert signed.service.ok("GET", nobody, headers=headers).json() == []
    signed.service.problem("GET", "/users/nobody-yet", "user-not-found", headers=headers)
    assert state_of(signed) == before


OPERATIONS: list[tuple[str, dict[str, Any]]] = [
    ("get", {}),
    ("get", {"where_document": {"$contains": "a"}}),
    ("get", {"include": ["embeddings", "uris"]}),
    ("query", {"query_embeddings": [[1, 2]]}),
    ("query", {"query_embeddings": [[1, 2]], "where_document": {"$contains": "a"}}),
    ("add", {"ids": ["x"], "embeddings": [[1, 2]]}),
    ("upsert", {"ids": ["a"], "embeddings": [[9, 9]]}),
    ("update", {"ids": ["a"], "documents": ["changed"]}),
    ("delete", {"ids": ["a"]}),
    ("delete", {"where_document": {"$contains": "a"}}),
    ("search", {"searches": []}),
    ("fork", {"new_name": "copied"}),
]


@pytest.mark.parametrize("is_warm", [True, False])
def test_an_avatars_token_names_no_other_collection(signed: Signed, is_warm: bool) -> None:
    """The id of a collection elsewhere in the same vectorstore, below its own database, finds nothing."""
    ids, before = ids_of(signed), state_of(signed)
    headers = bearer(signed.token(users=[ALICE], avatars=["7"], access="write"))
    own = f"{DATABASES}/avatar-7/collections"
    for foreign in (ids["avatar-8"], ids["default_database"]):
        for operation, body in OPERATIONS:
            if not is_warm:
                signed.service.ok("POST", f"/admin/users/{ALICE}/evict", headers=bearer(ADMIN_KEY))
            refused = signed.service.request("POST", f"{own}/{foreign}/{operation}", json=body, headers=headers)
            assert refused.status_code == 404, (operation, body, refused.text)
            assert refused.json()["error"] == "NotFoundError"
        for method, path in (
            ("GET", f"{own}/{foreign}/count"),
            ("GET", f"{own}/{foreign}/fork_count"),
            ("GET", f"{own}/{foreign}/indexing_status"),
            ("GET", f"{own}/by-id/{foreign}"),
            ("PUT", f"{own}/{foreign}"),
            ("DELETE", f"{own}/{foreign}"),
        ):
            body = {"new_name": "taken"} if method == "PUT" else None
            refused = signed.service.request(method, path, json=body, headers=headers)
            assert (refused.status_code, refused.json()["error"]) == (404, "NotFoundError"), (method, path)
    assert state_of(signed) == before
    # The same requests reach its own collection, and a token without avatars reaches all of them, as Chroma does.
    signed.service.ok("POST", f"{own}/{ids['avatar-7']}/get", json={}, headers=headers)
    everything = bearer(signed.token(users=[ALICE]))
    signed.service.ok("POST", f"{own}/{ids['avatar-8']}/get", json={}, headers=everything)


def test_chromas_client_works_with_an_avatars_token(signed: Signed) -> None:
    """The client connects, writes and queries in its avatar's database, and nowhere else."""
    token = signed.token(users=[ALICE], avatars=["9"], access="write")
    client = signed.client(token, "avatar-9")
    client.create_collection("made").add(ids=["a"], embeddings=[[1.0, 2.0]], documents=["text"])
    assert client.get_collection("made").query(query_embeddings=[[1.0, 2.0]], n_results=1)["ids"] == [["a"]]
    identity = signed.service.ok("GET", "/api/v2/auth/identity", headers=bearer(token)).json()
    assert (identity["tenant"], identity["databases"]) == (ALICE, ["avatar-9"])
    for database in ("avatar-7", "default_database"):
        with pytest.raises((ChromaError, ValueError)):
            signed.client(token, database).list_collections()
    reader = signed.client(signed.token(users=[ALICE], avatars=["9"]), "avatar-9")
    assert reader.get_collection("made").count() == 1
    with pytest.raises(ChromaError):
        reader.delete_collection("made")
    signed.service.ok("GET", f"/users/{ALICE}/avatars/9/collections", headers=bearer(token))
    for path in (f"/users/{ALICE}", f"/users/{ALICE}/avatars", f"/users/{ALICE}/avatars/7", f"/users/{ALICE}/commits"):
        signed.service.problem("GET", path, "forbidden", headers=bearer(token))


def test_a_revoked_token_is_refused(signed: Signed, tmp_path: Path) -> None:
    """Over HTTP at once, and by the command line when the list is read again; other tokens go on."""
    minted = signed.service.ok("POST", "/admin/tokens", json={"users": [ALICE]}, headers=bearer(ADMIN_KEY)).json()
    headers = bearer(minted["token"])
    signed.service.ok("GET", f"/users/{ALICE}", headers=headers)
    body = {"token_id": minted["token_id"], "expires_at_ms": minted["expires_at_ms"]}
    revoked = signed.service.ok("POST", "/admin/tokens/revoke", json=body, headers=bearer(ADMIN_KEY)).json()
    assert revoked["token_id"] == minted["token_id"]
    refused = signed.service.problem("GET", f"/users/{ALICE}", "unauthenticated", headers=headers)
    assert "revoked" in refused.json()["detail"]
    for wrong in ({}, {"token_id": ""}, {"token_id": "x", "until": 1}, {"token_id": "x", "expires_at_ms": -1}):
        signed.service.problem("POST", "/admin/tokens/revoke", "malformed-json", json=wrong, headers=bearer(ADMIN_KEY))
    other = signed.service.ok("POST", "/admin/tokens", json={"users": [ALICE]}, headers=bearer(ADMIN_KEY)).json()
    arguments = [other["token_id"], "--until", "2100-01-01T00:00:00Z", "--store", signed.service.store]
    done = run_cli("revoke", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # Sooner than the minute that it takes at most.
    os.kill(signed.service.pid, signal.SIGHUP)
    deadline_s = time.monotonic() + 60
    while signed.service.request("GET", f"/users/{ALICE}", headers=bearer(other["token"])).status_code != 401:
        assert time.monotonic() < deadline_s, "a minute has passed"
        time.sleep(0.1)
    signed.service.ok("GET", f"/users/{ALICE}", headers=bearer(signed.token(users=[ALICE])))


def test_the_command_line_signs_tokens(signed: Signed) -> None:
    """``token --jwt`` prints the token alone on stdout, of the same secret, for what its flags say."""
    env = {
        "VECTORPOOL_TOKEN_SECRET_FILE": str(signed.folder / "secret"),
        "VECTORPOOL_TOKEN_ISSUER": ISSUER,
        "VECTORPOOL_TOKEN_AUDIENCE": "vectorpool",
    }
    done = run_cli("token", "app", "--jwt", "--user", ALICE, "--avatar", "7", "--access", "write", env=env)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.stdout) and "revokes" in done.stderr
    headers = bearer(done.stdout.strip())
    path = f"/users/{ALICE}/avatars/7/collections"
    signed.service.ok("POST", path, json={"name": "by-the-command-line"}, headers=headers)
    signed.service.ok("DELETE", f"{path}/by-the-command-line", headers=headers)
    signed.service.problem("GET", f"/users/{ALICE}/collections", "forbidden", headers=headers)
    without = run_cli("token", "app", "--jwt", "--user", ALICE, env={})
    assert (without.returncode, without.stdout) == (2, "") and "VECTORPOOL_TOKEN_SECRET" in without.stderr
    for arguments in (["--user", ALICE, "--avatar", "7"], ["--user", ALICE, "--ttl", "5"], ["--jwt"]):
        done = run_cli("token", "app", *arguments, env=env)
        assert (done.returncode, done.stdout) == (2, "")


def test_a_secret_rotates_while_the_service_runs(signed: Signed) -> None:
    """A new key in front of the old one signs within a minute, and tokens of the old one are still taken."""
    old = signed.token(users=[ALICE])
    (signed.folder / "secret").write_text(f"k2:{OTHER_SECRET}\nk1:{SECRET}\n")
    os.kill(signed.service.pid, signal.SIGHUP)
    deadline_s = time.monotonic() + 60
    body = {"users": [ALICE]}
    while True:
        new = signed.service.ok("POST", "/admin/tokens", json=body, headers=bearer(ADMIN_KEY)).json()
        if new["key_id"] == "k2":
            break
        assert time.monotonic() < deadline_s, "a minute has passed"
        time.sleep(0.1)
    for token in (old, new["token"]):
        signed.service.ok("GET", f"/users/{ALICE}", headers=bearer(token))


def test_no_token_and_no_secret_is_written(signed: Signed) -> None:
    """Neither the log nor an answer but the one that makes it holds a token, a secret or the admin key."""
    told = signed.service.errors + "".join(signed.service.output)
    assert '"route":"/admin/tokens"' in told, "the log is looked at"
    assert signed.made
    assert not [secret for secret in (SECRET, OTHER_SECRET, ADMIN_KEY, *signed.made) if secret in told]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--token-secret-file", "short"], "fewer than 32 bytes"),
        (["--token-jwks", "https://issuer.example/jwks"], "token_issuer and token_audience"),
        (["--token-jwks", "http://issuer.example/jwks"], "unencrypted"),
        (["--admin-key-file", "short"], "at least 32 bytes"),
        (["--token-secret-file", "/nowhere/at/all"], "cannot be read"),
    ],
)
def test_keys_that_cannot_be_meant_stop_the_start(tmp_path: Path, flags: list[str], said: str) -> None:
    """Exit code 2 and one sentence, before anything is listened on."""
    (tmp_path / "short").write_text("too-short")
    done = run_cli("serve", *flags, "--port", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and said in lines[0], done.stderr
    assert not (tmp_path / ".vectorpool").exists()
