"""The native API and the operators' routes by the OpenAPI document; ``tests.protocol.test_fuzz`` has Chroma's.

A service with signed tokens, a user with an avatar, collections, documents, a backup and a job. One that is refused
changes nothing of them, and another user keeps its records whatever is sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.acceptance import meant
from tests.support.fuzzing import Fuzzed, Sent, fuzz_allowed, fuzz_refused
from tests.support.service import Service

# Most of the time goes into making requests up.
pytestmark = pytest.mark.long

ADMIN_KEY = "operators-key-of-this-test-0123456789"
SECRET = "a-secret-of-this-test-0123456789abcdef"
RECORDS = [{"id": each, "embedding": [1, 2, number], "document": "red apple"} for number, each in enumerate("abc")]
JOBS_S = 60


class FuzzedService(Fuzzed):
    """The user "fuzzed", to whom requests are sent, and the user "kept"."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._imports = 0
        self.job_id = ""
        self.archive = b""
        self.refill()
        self._fill("kept")
        self.archive = service.ok("GET", "/admin/users/kept/export").content
        self._before = self._records()

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": self.service.client.headers["Authorization"]}

    def takes(self, operation: Any) -> bool:
        return not operation.path.startswith("/api/v2")

    def _fill(self, user: str) -> None:
        for below in (f"/users/{user}", f"/users/{user}/avatars/7"):
            there = {each["name"] for each in self._listed(f"{below}/collections", "collections")}
            for name in sorted(there - set(meant.COLLECTIONS)):
                self.service.ok("DELETE", f"{below}/collections/{name}")
            for name in meant.COLLECTIONS:
                if name not in there:
                    self.service.ok("POST", f"{below}/collections", json={"name": name})
            self.service.ok("PUT", f"{below}/collections/{meant.COLLECTIONS[0]}/records", json={"records": RECORDS})

    def _listed(self, path: str, member: str) -> list[Any]:
        response = self.service.request("GET", path)
        return list(response.json()[member]) if response.status_code == 200 else []

    def refill(self) -> None:
        self._fill(meant.USER)
        user = f"/users/{meant.USER}"
        places = [f"backups/{name}" for name in meant.BACKUPS]
        places += [f"avatars/7/documents/{path}?chunks=true" for path in meant.DOCUMENTS]
        if all(self.service.request("GET", f"{user}/{place}").status_code == 200 for place in places):
            return
        self.service.ok("DELETE", f"/admin/users/{meant.USER}/limits")
        self.service.ok("POST", f"/admin/users/{meant.USER}/scrub")
        for name in meant.BACKUPS:
            self.service.request("PUT", f"{user}/backups/{name}", json={})
        for path in meant.DOCUMENTS:
            self.service.ok("PUT", f"{user}/avatars/7/documents/{path}", content=b"The warranty lasts two years.")
        # A document that cannot be read, so that the job has something to take again.
        self.service.ok("PUT", f"{user}/avatars/7/documents/broken.pdf", content=b"no PDF")
        job = self.service.ok("POST", f"{user}/avatars/7/ingest", params={"wait_s": JOBS_S}, json={}).json()
        self.job_id = job["job_id"]

    def state(self) -> Any:
        """Return the fuzzed user's newest commit, once no job is under way, and who has anything in the store."""
        deadline = time.monotonic() + JOBS_S
        jobs = f"/users/{meant.USER}/jobs"
        while any(self._listed(f"{jobs}?limit=1&state={state}", "jobs") for state in ("queued", "running")):
            assert time.monotonic() < deadline, "a job does not end"
            time.sleep(0.02)
        response = self.service.request("GET", f"/users/{meant.USER}")
        users = frozenset(path.name for path in (Path(self.service.store) / "users").iterdir())
        return response.headers.get("X-Vectorpool-Commit"), users

    def aim(self, case: Any, name: str) -> None:
        self._imports += 1
        places = meant.places(name, self.job_id, self._imports)
        case.path_parameters.update({k: v for k, v in places.items() if k in case.path_parameters})
        for given in (case.query, case.headers):
            for each in meant.DROPPED:
                if given:
                    given.pop(each, None)
        if name == "ingest_documents":
            case.query["wait_s"] = JOBS_S

    def bodies(self, name: str, body: Any) -> st.SearchStrategy[Any]:
        if name == "import_user":
            return st.sampled_from([self.archive, self.archive, b"no tar"])
        return meant.bodies(name, body)

    def is_documented(self, path: str, status: int) -> bool:
        # A directory has no URLs of its own.
        return path.endswith("/upload-urls") and status == 501

    def _records(self) -> Any:
        return self.service.ok("POST", "/users/kept/collections/notes/records/get", json={}).json()

    def check(self) -> None:
        """Assert that the kept user's records are what they were, and that the fuzzed user is served."""
        assert self._records() == self._before
        self.refill()
        found = self.service.ok("POST", f"/users/{meant.USER}/collections/notes/records/get", json={"ids": ["a"]})
        assert [record["id"] for record in found.json()["records"]] == ["a"]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzedService]:
    """An instance with signed tokens, one shard and the simple embedder."""
    env = {"VECTORPOOL_ADMIN_KEY": ADMIN_KEY, "VECTORPOOL_TOKEN_SECRET": SECRET}
    service = Service(tmp_path_factory.mktemp("service"), "--shards", "1", env=env)
    try:
        service.start()
        asked = {"users": "*", "access": "write", "admin": True}
        minted = service.ok("POST", "/admin/tokens", headers={"Authorization": f"Bearer {ADMIN_KEY}"}, json=asked)
        service.client.headers["Authorization"] = f"Bearer {minted.json()['token']}"
        yield FuzzedService(service)
    finally:
        service.close()


def _told(everything: list[Sent]) -> str:
    return "\n".join(f"{sent.name}: {sent.succeeded} of {sent.total}, {sent.statuses}" for sent in everything)


@pytest.mark.timeout(1800)
def test_what_the_document_allows(fuzzed: FuzzedService) -> None:
    """Requests that the document allows reach every operation, more than half of them succeed, and none breaks any."""
    everything = fuzz_allowed(fuzzed, 12, meant.NEVER)
    broken = [told for sent in everything for told in sent.broken]
    assert not broken, "\n".join(broken)
    assert {sent.name for sent in everything if not sent.succeeded} == meant.NEVER, _told(everything)
    assert 2 * sum(sent.succeeded for sent in everything) > sum(sent.total for sent in everything), _told(everything)
    fuzzed.check()


@pytest.mark.timeout(1800)
def test_what_the_document_refuses(fuzzed: FuzzedService) -> None:
    """Requests that break the document break nothing else."""
    everything = fuzz_refused(fuzzed, 6)
    broken = [told for sent in everything for told in sent.broken]
    assert not broken, "\n".join(broken)
    assert sum(sent.total for sent in everything) > len(fuzzed.operations)
    fuzzed.check()
