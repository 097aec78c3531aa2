"""History over HTTP and in the command line: commits, the past beside the present, restore, backups, forks."""

from __future__ import annotations

from tests.support.service import Service, run_cli

RECORDS = "/collections/notes/records"


def _put(service: Service, user: str, record_id: str, document: str) -> int:
    record = {"id": record_id, "document": document, "embedding": [1.0, 2.0, 3.0]}
    answer = service.ok("PUT", f"/users/{user}{RECORDS}", json={"records": [record]})
    return int(answer.headers["x-vectorpool-commit"])


def _story(service: Service, user: str) -> list[int]:
    """Create, put a, put b, change a; return the commits."""
    service.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
    return [
        1,
        _put(service, user, "a", "first"),
        _put(service, user, "b", "second"),
        _put(service, user, "a", "changed"),
    ]


def _documents(service: Service, user: str, query: str = "") -> dict[str, str]:
    found = service.ok("POST", f"/users/{user}{RECORDS}/get{query}", json={"include": ["documents"]}).json()
    return {record["id"]: record["document"] for record in found["records"]}


def test_the_past_is_read_beside_the_present(service: Service, user: str) -> None:
    """Every commit answers as it was when it was made, while the live vectorstore goes on."""
    commits = _story(service, user)
    assert _documents(service, user, f"?at={commits[1]}") == {"a": "first"}
    assert _documents(service, user, f"?at={commits[2]}") == {"a": "first", "b": "second"}
    assert _documents(service, user) == {"a": "changed", "b": "second"}
    answer = service.ok(
        "POST", f"/users/{user}/collections/notes/query?at={commits[1]}", json={"embeddings": [[1.0, 2.0, 3.0]]}
    )
    assert answer.headers["x-vectorpool-commit"] == str(commits[1])
    assert [match["id"] for match in answer.json()["results"][0]] == ["a"]
    service.problem("GET", f"/users/{user}/collections/notes/count?at=99", "commit-not-found")
    service.problem("GET", f"/users/{user}/collections/notes/count?at=x", "invalid-request")
    service.problem("DELETE", f"/users/{user}/collections/notes?at=2", "invalid-request")
    assert _documents(service, user) == {"a": "changed", "b": "second"}


def test_commits_are_listed_newest_first(service: Service, user: str) -> None:
    """The list says what each commit did, and which backups keep it."""
    commits = _story(service, user)
    service.ok("PUT", f"/users/{user}/backups/early", json={"commit": commits[1]})
    listed = service.ok("GET", f"/users/{user}/commits").json()["commits"]
    assert [entry["commit"] for entry in listed] == commits[::-1]
    assert [entry["backups"] for entry in listed] == [[], [], ["early"], []]
    assert listed[0]["added"] == 1
    assert listed[0]["collections"] == ["notes"]
    assert len(service.ok("GET", f"/users/{user}/commits?limit=2").json()["commits"]) == 2
    service.problem("GET", "/users/nobody-here/commits", "user-not-found")


def test_restoring_is_a_new_commit(service: Service, user: str) -> None:
    """The old state is back as the newest commit, what was newer stays in the history, and writing goes on."""
    commits = _story(service, user)
    answer = service.ok("POST", f"/users/{user}/restore", json={"commit": commits[2]}).json()
    assert answer == {"commit": commits[3] + 1, "restored_from": commits[2]}
    assert _documents(service, user) == {"a": "first", "b": "second"}
    assert _documents(service, user, f"?at={commits[3]}") == {"a": "changed", "b": "second"}
    assert service.ok("GET", f"/users/{user}/commits").json()["commits"][0]["restored_from"] == commits[2]
    _put(service, user, "c", "third")
    assert _documents(service, user) == {"a": "first", "b": "second", "c": "third"}


def test_restoring_to_a_time(service: Service, user: str) -> None:
    """A time names the newest commit that is not younger; without an offset it is refused."""
    commits = _story(service, user)
    listed = service.ok("GET", f"/users/{user}/commits").json()["commits"]
    latest = listed[0]["time_ms"] / 1000
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(latest + 1, UTC).isoformat()
    answer = service.ok("POST", f"/users/{user}/restore", json={"time": when}).json()
    assert answer["restored_from"] == commits[3]
    service.problem("POST", f"/users/{user}/restore", "invalid-request", json={"time": "2026-11-21T09:00:00"})
    service.problem("POST", f"/users/{user}/restore", "commit-not-found", json={"time": "2001-01-01T00:00:00Z"})
    service.problem("POST", f"/users/{user}/restore", "invalid-request", json={})
    service.problem("POST", f"/users/{user}/restore", "commit-not-found", json={"commit": 12345})


def test_backups_are_named_commits(service: Service, user: str) -> None:
    """A backup is created once, shown, listed and deleted; its commit can be restored."""
    commits = _story(service, user)
    base = f"/users/{user}/backups"
    created = service.ok("PUT", f"{base}/now").json()
    assert (created["name"], created["commit"]) == ("now", commits[3])
    service.problem("PUT", f"{base}/now", "backup-exists")
    service.problem("PUT", f"{base}/later", "commit-not-found", json={"commit": 99})
    service.problem("PUT", f"{base}/..%2Fx", "invalid-id")
    assert service.ok("GET", f"{base}/now").json() == created
    assert service.ok("GET", base).json() == {"backups": [created]}
    service.ok("DELETE", f"{base}/now")
    service.problem("GET", f"{base}/now", "backup-not-found")
    service.problem("DELETE", f"{base}/now", "backup-not-found")
    service.problem("PUT", "/users/nobody-here/backups/x", "user-not-found")


def test_a_fork_goes_its_own_way(service: Service, user: str) -> None:
    """The other user gets the state, and from then on neither sees what the other writes."""
    commits = _story(service, user)
    other = f"{user}-fork"
    forked = service.ok("POST", f"/users/{user}/fork", json={"user_id": other, "commit": commits[2]}).json()
    assert forked == {"user_id": other, "commit": 1}
    assert _documents(service, other) == {"a": "first", "b": "second"}
    _put(service, other, "c", "theirs")
    assert _documents(service, user) == {"a": "changed", "b": "second"}
    service.problem("POST", f"/users/{user}/fork", "vectorstore-exists", json={"user_id": other})
    service.problem("POST", f"/users/{user}/fork", "invalid-id", json={"user_id": "../x"})
    service.problem("POST", "/users/nobody-here/fork", "user-not-found", json={"user_id": "new-one"})
    service.problem("GET", "/users/new-one", "user-not-found")


def test_the_command_line_does_the_same(own_service: Service) -> None:
    """restore, backup and fork work on the store; a running service sees what they did at its next read."""
    commits = _story(own_service, "42")
    store = ("--store", own_service.store)
    assert "keeps commit 2" in run_cli("backup", "42", "early", "--commit", str(commits[1]), *store).stdout
    assert "early" in run_cli("backup", "42", *store).stdout
    assert "brings back commit 3" in run_cli("restore", "42", "--commit", str(commits[2]), *store).stdout
    assert _documents(own_service, "42") == {"a": "first", "b": "second"}
    assert "forked from user 42" in run_cli("fork", "42", "43", *store).stdout
    assert _documents(own_service, "43") == {"a": "first", "b": "second"}
    assert "deleted" in run_cli("backup", "42", "early", "--delete", *store).stdout
    again = run_cli("backup", "42", "early", "--delete", *store)
    assert again.returncode == 1
    assert "no backup" in again.stderr.lower()


def test_nothing_is_lost_where_nothing_was_salvaged(service: Service, user: str) -> None:
    """The list of lost records is empty for a sound vectorstore, and a problem for a user who has none."""
    _story(service, user)
    assert service.ok("GET", f"/users/{user}/lost").json() == {"lost": [], "total": 0}
    service.problem("GET", "/users/nobody-here/lost", "user-not-found")
