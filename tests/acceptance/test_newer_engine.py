"""A user whose vectorstore a later version wrote: both protocols say so with 503, and everything stays as it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.schemas import commit_changed, everything, make_newer, make_older
from tests.support.service import Service, run_cli
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.objects.stores import open_bucket
from vectorpool.settings import Settings

RECORD = {"records": [{"id": "a", "embedding": [1.0, 2.0], "document": "first"}]}
NOTES = "/users/42/collections/notes"
CHROMA = "/api/v2/tenants/42/databases/default_database/collections"


def _fill(service: Service) -> None:
    service.ok("POST", "/users/42/collections", json={"name": "notes"})
    service.ok("PUT", f"{NOTES}/records", json=RECORD)
    assert service.stop() == 0, service.errors


async def _change(service: Service, scratch: Path, change: object) -> None:
    settings = Settings(store=service.store, replica_dir=str(scratch / "replicas"))
    bucket = open_bucket(settings)
    try:
        await commit_changed(bucket, "42", settings, scratch / "changed", change)  # type: ignore[arg-type]
    finally:
        await bucket.close()


def _stored(service: Service) -> dict[str, bytes]:
    """Return the objects of users. That an operator's wish was refused is in the audit."""
    found = asyncio.run(everything(DirectoryBucket(Path(service.store))))
    return {key: data for key, data in found.items() if not key.startswith(".vectorpool/audit/")}


def test_both_protocols_refuse_by_name_and_touch_nothing(own_service: Service, tmp_path: Path) -> None:
    """A native problem `newer-engine`, an error of Chroma's shape, both 503 with Retry-After; export still works."""
    _fill(own_service)
    asyncio.run(_change(own_service, tmp_path, make_newer))
    before = _stored(own_service)
    own_service.start()
    for method, path, body in [
        ("GET", f"{NOTES}/count", None),
        ("POST", f"{NOTES}/records/get", {}),
        ("PUT", f"{NOTES}/records", RECORD),
        ("DELETE", NOTES, None),
        ("POST", "/users/42/restore", {"commit": 1}),
        ("POST", "/users/42/fork", {"user_id": "43"}),
    ]:
        response = own_service.problem(method, path, "newer-engine", json=body)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["unknown"] == ["sysdb 11"]
    for method, path, body in [("GET", CHROMA, None), ("POST", CHROMA, {"name": "more"})]:
        response = own_service.request(method, path, json=body)
        assert response.status_code == 503, response.text
        assert response.headers["retry-after"]
        assert set(response.json()) == {"error", "message"}
        assert "A later version wrote this vectorstore" in response.json()["message"]
    assert own_service.stop() == 0, own_service.errors
    assert _stored(own_service) == before

    store = ("--store", own_service.store)
    for command in (("restore", "42", "--commit", "1"), ("fork", "42", "43")):
        refused = run_cli(*command, *store)
        assert refused.returncode != 0
        assert "A later version wrote this vectorstore" in refused.stdout + refused.stderr
    exported = run_cli("export", "42", str(tmp_path / "exported"), *store)
    assert exported.returncode == 0, exported.stderr
    imported = run_cli("import", str(tmp_path / "exported"), "--user", "44", *store)
    assert imported.returncode != 0
    assert "A later version wrote this vectorstore" in imported.stdout + imported.stderr
    assert _stored(own_service) == before


def test_a_migration_is_shown_in_the_history(own_service: Service, tmp_path: Path) -> None:
    """The commit that a write of an older vectorstore is preceded by says what it is, in both lists of commits."""
    _fill(own_service)
    asyncio.run(_change(own_service, tmp_path, make_older))
    own_service.start()
    own_service.ok("PUT", f"{NOTES}/records", json={"records": [{"id": "b", "embedding": [1.0, 2.0]}]})
    assert own_service.ok("GET", f"{NOTES}/count").json()["count"] == 2
    commits = own_service.ok("GET", "/users/42/commits").json()["commits"]
    assert [entry["migrated"] for entry in commits[:3]] == [False, True, False]
    assert [entry["added"] for entry in commits[:2]] == [1, 0]
    listed = run_cli("log", "42", "--store", own_service.store)
    assert sum(line.rstrip().endswith("migrated") for line in listed.stdout.splitlines()) == 1
