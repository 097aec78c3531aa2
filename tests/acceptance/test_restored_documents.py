"""Restores and forks bring documents and records back, and no ingest undoes that: on a directory and on S3."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.radosgw import Radosgw
from tests.support.service import Service, run_cli

STORES = ("directory", "radosgw")


@pytest.fixture(scope="module", params=STORES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A served instance over each store, shared by the module."""
    root = tmp_path_factory.mktemp("restored")
    if request.param == "directory":
        instance = Service(root).start()
    else:
        server: Radosgw = request.getfixturevalue("radosgw_server")
        url = f"s3://{server.make_bucket()}/of-documents"
        instance = Service(root, store=url, env=server.environ(url)).start()
    yield instance
    instance.close()


class Avatar:
    """Avatar 7 of a user, over HTTP."""

    def __init__(self, service: Service, user: str) -> None:
        self.service = service
        self.user = f"/users/{user}"
        self.path = f"{self.user}/avatars/7"

    def put(self, **texts: str) -> None:
        for name, text in texts.items():
            self.service.ok("PUT", f"{self.path}/documents/{name}.txt", content=text.encode())

    def delete(self, *names: str) -> None:
        for name in names:
            self.service.ok("DELETE", f"{self.path}/documents/{name}.txt")

    def ingest(self) -> dict[str, str]:
        report = self.service.ok("POST", f"{self.path}/ingest?wait_s=50", json={}).json()
        return {outcome["path"][:-4]: outcome["status"] for outcome in report["documents"]}

    @property
    def commit(self) -> int:
        return int(self.service.ok("GET", self.user).headers["x-vectorpool-commit"])

    def texts(self) -> dict[str, str]:
        """Return the bytes that are at each path."""
        listed = self.service.ok("GET", f"{self.path}/documents").json()["documents"]
        there = [document["path"] for document in listed if not document.get("missing")]
        return {path[:-4]: self.service.ok("GET", f"{self.path}/documents/{path}").text for path in there}

    def missing(self) -> list[str]:
        listed = self.service.ok("GET", f"{self.path}/documents").json()["documents"]
        return [document["path"][:-4] for document in listed if document.get("missing")]

    def records(self) -> dict[str, str]:
        """Return what was ingested: the text of each document's one chunk."""
        found = self.service.ok(
            "POST", f"{self.path}/collections/documents/records/get", json={"include": ["documents"]}
        ).json()
        return {record["id"][: -len(".txt#0000")]: record["document"] for record in found["records"]}

    def restore(self, **what: object) -> dict[str, int]:
        return self.service.ok("POST", f"{self.user}/restore", json=what).json()["documents"]


def _story(service: Service, user: str) -> tuple[Avatar, int]:
    """Ingest three documents; then replace one, delete one, and add one. Return the commit of the first state."""
    avatar = Avatar(service, user)
    avatar.put(stays="It stays.", replaced="The first words.", deleted="Soon deleted.")
    assert avatar.ingest() == {"stays": "ingested", "replaced": "ingested", "deleted": "ingested"}
    commit = avatar.commit
    avatar.put(replaced="Other words.", added="Later.")
    avatar.delete("deleted")
    assert avatar.ingest() == {"stays": "unchanged", "replaced": "ingested", "added": "ingested"}
    return avatar, commit


def _counts(**some: int) -> dict[str, int]:
    return dict.fromkeys(("written", "present", "different", "missing", "failed"), 0) | some


FIRST = {"stays": "It stays.", "replaced": "The first words.", "deleted": "Soon deleted."}
LATER = {"stays": "It stays.", "replaced": "Other words.", "added": "Later."}


@pytest.mark.parametrize("named_by", ["commit", "backup", "time"])
def test_a_restore_brings_documents_back_and_ingest_keeps_them(served: Service, user: str, named_by: str) -> None:
    """The replaced and the deleted document are at their paths, and an ingest finds nothing to do for them."""
    avatar, commit = _story(served, user)
    later = avatar.commit
    listed = served.ok("GET", f"{avatar.user}/commits").json()["commits"]
    (made_ms,) = (each["time_ms"] for each in listed if each["commit"] == commit)
    if named_by == "backup":
        served.ok("PUT", f"{avatar.user}/backups/early", json={"commit": commit})
    when = datetime.fromtimestamp(made_ms / 1000, UTC).isoformat()
    what = {"commit": {"commit": commit}, "backup": {"backup": "early"}, "time": {"time": when}}[named_by]
    answer = served.ok("POST", f"{avatar.user}/restore", json=what).json()
    assert answer["restored_from"] == commit
    assert answer["documents"] == _counts(written=2, present=1)
    assert avatar.records() == FIRST
    # What came after the state is not touched.
    assert avatar.texts() == FIRST | {"added": "Later."}
    before = avatar.commit
    assert avatar.ingest() == dict.fromkeys(FIRST, "unchanged") | {"added": "ingested"}
    assert avatar.commit == before + 1
    assert avatar.records() == FIRST | {"added": "Later."}
    # And forwards again: what the restore replaced was kept.
    assert avatar.restore(commit=later) == _counts(written=1, present=2)
    assert (avatar.records(), avatar.texts()) == (LATER, LATER | {"deleted": "Soon deleted."})
    served.problem("POST", f"{avatar.user}/restore", "backup-not-found", json={"backup": "none"})
    served.problem("POST", f"{avatar.user}/restore", "invalid-id", json={"backup": "../x"})
    served.problem("POST", f"{avatar.user}/restore", "invalid-request", json={"backup": "early", "commit": 1})


def test_a_fork_copies_documents(served: Service, user: str) -> None:
    """The other user has the state's documents, from the source's paths and from what is kept of them."""
    avatar, commit = _story(served, user)
    other = Avatar(served, f"{user}-fork")
    forked = served.ok("POST", f"{avatar.user}/fork", json={"user_id": f"{user}-fork", "commit": commit}).json()
    assert forked == {"user_id": f"{user}-fork", "commit": 1, "documents": _counts(written=3)}
    assert (other.texts(), other.records()) == (FIRST, FIRST)
    assert other.ingest() == dict.fromkeys(FIRST, "unchanged")
    assert (avatar.texts(), avatar.records()) == (LATER, LATER)
    # The fork's documents are its own: one that goes there is removed there.
    other.delete("stays")
    assert other.ingest() == {"replaced": "unchanged", "deleted": "unchanged"}
    assert avatar.texts() == LATER


def test_what_is_not_kept_is_missing_until_it_is_deleted_or_put(served: Service, user: str) -> None:
    """Records whose bytes are gone are shown as missing, outlive ingests, and go by path; a put ends it too."""
    avatar, commit = _story(served, user)
    served.ok("DELETE", f"/users/{user}/avatars/7?documents=true")
    assert served.request("GET", avatar.user).json()["kept"]["documents"] == 0
    assert avatar.restore(commit=commit) == _counts(missing=3)
    for _ in range(2):
        assert avatar.missing() == ["deleted", "replaced", "stays"]
        assert avatar.ingest() == dict.fromkeys(FIRST, "missing")
        assert avatar.records() == FIRST
    page = served.ok("GET", f"{avatar.path}/documents?limit=2").json()
    assert [each["path"] for each in page["documents"]] == ["deleted.txt", "replaced.txt"]
    rest = served.ok("GET", f"{avatar.path}/documents?limit=2&after={page['next_after']}").json()
    assert ([each["path"] for each in rest["documents"]], rest["next_after"]) == (["stays.txt"], None)
    served.problem("GET", f"{avatar.path}/documents/stays.txt", "document-missing")
    assert served.request("HEAD", f"{avatar.path}/documents/stays.txt").status_code == 404
    named = served.ok("POST", f"{avatar.path}/ingest?wait_s=50", json={"paths": ["stays.txt", "no.txt"]}).json()[
        "documents"
    ]
    assert [(each["path"], each["status"]) for each in named] == [("no.txt", "failed"), ("stays.txt", "missing")]

    assert served.ok("DELETE", f"{avatar.path}/documents/deleted.txt").json() == {"deleted": 1}
    served.problem("DELETE", f"{avatar.path}/documents/deleted.txt", "document-not-found")
    avatar.put(replaced="Put again.", stays="It stays.")
    assert avatar.missing() == []
    assert avatar.ingest() == {"replaced": "ingested", "stays": "unchanged"}
    assert avatar.records() == {"replaced": "Put again.", "stays": "It stays."}
    # From now on both are documents like any other.
    avatar.delete("stays")
    assert avatar.ingest() == {"replaced": "unchanged"}


def test_what_is_kept_counts_as_stored_and_is_deleted(served: Service, user: str) -> None:
    """It is shown, keeps a user in being, and goes with an avatar, its database on Chroma's protocol, or the user."""
    avatar, _ = _story(served, user)
    shown = served.ok("GET", avatar.user).json()["kept"]
    assert shown == {"documents": 2, "bytes": shown["bytes"], "complete": True}
    assert shown["bytes"] >= len("The first words.") + len("Soon deleted.")
    served.ok("DELETE", f"/api/v2/tenants/{user}/databases/avatar-7")
    assert served.ok("GET", avatar.user).json()["kept"]["documents"] == 0
    avatar.put(stays="Changed.")
    assert served.ok("GET", avatar.user).json()["kept"]["documents"] == 1
    served.ok("DELETE", f"{avatar.user}?documents=true")
    served.problem("GET", avatar.user, "user-not-found")
    # A user who has nothing but documents that were deleted.
    avatar.put(stays="Only this.")
    avatar.delete("stays")
    assert served.ok("GET", avatar.user).json()["kept"]["documents"] == 1
    assert served.ok("DELETE", avatar.user).json() == {"deleted": 1}
    served.problem("GET", avatar.user, "user-not-found")


def test_the_command_line_brings_documents_back(served: Service, user: str) -> None:
    """restore --backup and fork do on the store what the service does, and the next ingest finds nothing to do."""
    avatar, commit = _story(served, user)
    served.ok("PUT", f"{avatar.user}/backups/early", json={"commit": commit})
    flags = ["--store", served.store]
    done = run_cli("restore", user, "--backup", "early", *flags, env=served.env)
    assert done.returncode == 0, done.stderr
    assert f"brings back commit {commit}" in done.stdout
    assert "2 brought back, 1 present, 0 paths hold other bytes, 0 missing, 0 failed" in done.stdout
    assert (avatar.texts(), avatar.records()) == (FIRST | {"added": "Later."}, FIRST)
    assert avatar.ingest() == dict.fromkeys(FIRST, "unchanged") | {"added": "ingested"}
    done = run_cli("fork", user, f"{user}-cli", "--commit", str(commit), *flags, env=served.env)
    assert "3 brought back" in done.stdout, done.stderr
    other = Avatar(served, f"{user}-cli")
    assert (other.texts(), other.records()) == (FIRST, FIRST)
    assert other.ingest() == dict.fromkeys(FIRST, "unchanged")
    wrong = run_cli("restore", user, "--backup", "early", "--commit", "1", *flags, env=served.env)
    assert wrong.returncode == 2 and "--backup" in wrong.stderr


def test_another_programs_documents_are_left_alone(service: Service, user: str) -> None:
    """A restore does not write where another program wrote; what that program replaced was not kept."""
    avatar, commit = _story(service, user)
    later = avatar.commit
    folder = Path(service.store) / "users" / user / "avatars" / "7" / "vectorstore_data"
    (folder / "replaced.txt").write_text("Straight into the bucket.")
    (folder / "deleted.txt").write_text("Here too.")
    assert avatar.restore(commit=commit) == _counts(different=2, present=1)
    assert avatar.texts() == {
        "stays": "It stays.",
        "replaced": "Straight into the bucket.",
        "deleted": "Here too.",
        "added": "Later.",
    }
    assert avatar.ingest()["replaced"] == "ingested"
    assert avatar.restore(commit=later) == _counts(different=1, present=2)
