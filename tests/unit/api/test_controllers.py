"""What controllers send to shards, and how they pass answers on."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from tests.unit.api.parts import FakeRouter, application, talk
from vectorpool import commands
from vectorpool.answers import TaskView
from vectorpool.api.callers import Callers
from vectorpool.identity.caller import Caller
from vectorpool.jobs.protocol import ListJobs, ShowJob
from vectorpool.jobs.views import EXAMPLE_JOB
from vectorpool.settings import Settings


async def test_a_shards_bytes_are_passed_on_as_they_came() -> None:
    """The front neither decodes nor encodes an answer, and adds the commit that it saw."""
    router = FakeRouter()
    async with talk(application(router)) as client:
        response = await client.get("/users/42/collections/notes")
    assert response.content == FakeRouter.body
    assert response.headers["x-vectorpool-commit"] == "17"
    assert router.commands == [("42", commands.GetCollection(name="notes"))]


@pytest.mark.parametrize(("home", "avatar_id"), [("/users/a%40b.c", None), ("/users/a%40b.c/avatars/7", "7")])
async def test_the_same_controllers_serve_users_and_avatars(home: str, avatar_id: str | None) -> None:
    """The path decides whose collection a command is about."""
    router = FakeRouter()
    async with talk(application(router)) as client:
        body = {"name": "notes", "metadata": {}, "hnsw": {"ef_search": 50}}
        assert (await client.post(f"{home}/collections", json=body)).status_code == 201
        await client.get(f"{home}/collections?limit=5&offset=2")
        await client.get(f"{home}/collections/notes/count")
        await client.request("DELETE", f"{home}/collections/notes/records", json={"where": {"k": 1}})
    assert router.commands == [
        (
            "a@b.c",
            commands.CreateCollection(avatar_id=avatar_id, name="notes", hnsw=commands.Hnsw(ef_search=50)),
        ),
        ("a@b.c", commands.ListCollections(avatar_id=avatar_id, limit=5, offset=2)),
        ("a@b.c", commands.CountRecords(avatar_id=avatar_id, collection="notes")),
        ("a@b.c", commands.DeleteRecords(avatar_id=avatar_id, collection="notes", where={"k": 1})),
    ]


async def test_records_become_columns() -> None:
    """A write carries one column a kind, nulls where a record has none, and no column that nobody has."""
    router = FakeRouter()
    records = [
        {"id": "a", "document": "aa", "metadata": {"k": 1}},
        {"id": "b", "embedding": [1, 2, 3, 4], "metadata": {}},
    ]
    async with talk(application(router)) as client:
        response = await client.post("/users/42/collections/notes/records", json={"records": records})
    assert response.status_code == 201
    ((_, command),) = router.commands
    assert isinstance(command, commands.AddRecords)
    assert (command.ids, command.documents, command.metadatas, command.uris) == (
        ["a", "b"],
        ["aa", None],
        [{"k": 1}, None],
        None,
    )
    assert command.vectors is not None
    assert (command.vectors.dimension, command.vectors.embedder, command.vectors.rows) == (4, "letters", None)


async def test_an_update_embeds_only_new_documents() -> None:
    """Records whose text stays have no row; a null deletes a metadata key."""
    router = FakeRouter()
    records = [{"id": "a", "metadata": {"k": None}}, {"id": "b", "document": "new"}]
    async with talk(application(router)) as client:
        await client.patch("/users/42/collections/notes/records", json={"records": records})
    ((_, command),) = router.commands
    assert isinstance(command, commands.UpdateRecords)
    assert command.metadatas == [{"k": None}, None]
    assert command.vectors is not None and command.vectors.rows == [1]


async def test_what_is_refused_never_reaches_a_shard() -> None:
    """Limits and checks come before the command."""
    router = FakeRouter()
    async with talk(application(router, Settings(max_records=2, max_body_bytes=2000))) as client:
        notes = "/users/42/collections/notes"
        for body, status in (
            ({"records": [{"id": str(number), "document": "x"} for number in range(3)]}, 413),
            ({"records": [{"id": "a", "document": "x" * 3000}]}, 413),
            ({"records": [{"id": "a", "document": "x"}] * 2}, 400),
            ({"records": [{"id": "a"}]}, 400),
            ({"records": []}, 400),
        ):
            response = await client.post(f"{notes}/records", json=body)
            assert response.status_code == status, response.text
        assert (await client.get("/users//collections")).json()["code"] == "invalid-id"
        assert (await client.get("/users/a%2Fb/collections")).json()["code"] == "invalid-id"
        assert router.commands == []
        assert (await client.get("/users/42/avatars/7/documents/a%2Fb")).json()["code"] == "document-not-found"
    # Only a shard knows whether a restore brought the document's records.
    assert router.commands == [("42", commands.ListRestored(avatar_id="7", path="a/b", limit=1))]


async def test_many_slices_of_json_make_one_command() -> None:
    """A body of several slices is decoded to the same command as a small one."""
    router = FakeRouter()
    records = [{"id": f"r{number}", "document": "a" * 1000} for number in range(2000)]
    async with talk(application(router)) as client:
        response = await client.put("/users/42/collections/notes/records", json={"records": records})
    assert response.status_code == 200
    ((_, command),) = router.commands
    assert command.ids == [record["id"] for record in records]
    assert command.vectors is not None and len(command.vectors.data) == 2000 * 4 * 4


@pytest.mark.parametrize("essential", [True, False])
async def test_an_essential_task_that_is_down_makes_the_instance_not_ready(essential: bool) -> None:
    """On both protocols; a task that requests do not depend on is only listed."""
    router = FakeRouter()
    task = TaskView("pool tick", "down", essential, starts=9, failures=8, failures_in_a_row=8, last_error="OSError")
    router.shown_tasks = [task, TaskView("memory return", "running", False, 1, 0, 0)]
    async with talk(application(router)) as client:
        native = await client.get("/health/ready")
        chromas = await client.get("/api/v2/healthcheck")
        assert native.json()["status"] == ("task-down" if essential else "ready")
        told = await client.get("/admin/ready")
        assert [shown["name"] for shown in told.json()["tasks"]] == ["pool tick"]
        assert told.json()["status"] == native.json()["status"] and told.status_code == native.status_code
        assert "pool tick" in told.json()["reasons"][0] and "OSError" in told.json()["reasons"][0]
        assert native.status_code == chromas.status_code == (503 if essential else 200)
        assert chromas.json()["is_executor_ready"] is not essential
        router.ready = False
        assert (await client.get("/health/ready")).json()["status"] == "starting"


# --- Jobs --------------------------------------------------------------------------------------------


async def test_a_job_is_shown_to_tokens_of_its_avatar_only() -> None:
    """By a token narrowed to avatars, a job of another one is not found, and a list asks for the token's own."""
    app = application(FakeRouter())
    jobs = app.app.state.service.jobs
    digests = {
        hashlib.sha256(token).digest(): Caller("narrow", frozenset({"42"}), avatars=frozenset({avatar}))
        for token, avatar in ((b"of-seven", "7"), (b"of-eight", "8"))
    }
    app.identity.callers = Callers(digests)
    async with talk(app) as client:
        for path in ("", "/events", "?wait_s=1"):
            seen = await client.get(f"/users/42/jobs/j1{path}", headers={"x-chroma-token": "of-seven"})
            assert seen.status_code == 200, seen.text
            hidden = await client.get(f"/users/42/jobs/j1{path}", headers={"x-chroma-token": "of-eight"})
            assert (hidden.status_code, hidden.json()["code"]) == (404, "job-not-found")
        for method, path in (("DELETE", ""), ("POST", "/retry")):
            hidden = await client.request(method, f"/users/42/jobs/j1{path}", headers={"x-chroma-token": "of-eight"})
            assert hidden.status_code == 404
        assert not [request for request in jobs.requests if not isinstance(request, ShowJob)]
        await client.get("/users/42/jobs?avatar=7&state=done", headers={"x-chroma-token": "of-eight"})
        await client.get("/users/42/jobs", headers={"x-chroma-token": "of-eight"})
    assert [request.avatars for request in jobs.requests if isinstance(request, ListJobs)] == [[], ["8"]]


async def test_commands_of_workers_are_those_of_a_sync_and_for_their_path() -> None:
    """Another command, another avatar and what is no msgpack are refused; the others reach the user's shard."""
    router = FakeRouter()
    async with talk(application(router)) as client:
        headers = {"content-type": "application/msgpack"}
        path = "/users/42/avatars/7/commands"
        for body, status in (
            (commands.ForgetDocument(avatar_id="7", path="a.md"), 200),
            (commands.ForgetDocument(avatar_id="8", path="a.md"), 400),
            (commands.DeleteAvatar(avatar_id="7"), 400),
            (b"no msgpack", 400),
        ):
            content = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
            assert (await client.post(path, content=content, headers=headers)).status_code == status
    assert [type(command) for _, command in router.commands] == [commands.ForgetDocument]


async def test_a_put_and_a_deletion_schedule_a_sync_unless_it_is_switched_off() -> None:
    """Of the document that they are about."""
    for is_on in (True, False):
        router = FakeRouter()
        router.body = b'{"deleted":1}'
        app = application(router, Settings(sync_on_write=is_on))
        async with talk(app) as client:
            assert (await client.put("/users/42/avatars/7/documents/a.md", content=b"x")).status_code == 201
            assert (await client.delete("/users/42/avatars/7/documents/a.md")).status_code == 200
        assert app.app.state.service.jobs.scheduled == [("42", "7", "a.md")] * (2 if is_on else 0)


async def test_an_ingest_is_a_job_with_its_place() -> None:
    """202 at once, 200 with the finished job if the caller waits."""
    app = application(FakeRouter())
    async with talk(app) as client:
        await client.put("/users/a%20b/avatars/7/documents/a.md", content=b"x")
        accepted = await client.post("/users/a%20b/avatars/7/ingest", json={"paths": ["a.md"], "force": True})
        assert (accepted.status_code, accepted.headers["location"]) == (202, f"/users/a%20b/jobs/{EXAMPLE_JOB.job_id}")
        waited = await client.post("/users/a%20b/avatars/7/ingest?wait_s=5")
        assert waited.status_code == 200 and waited.json()["documents"]
        assert (await client.post("/users/a%20b/avatars/7/ingest?wait_s=1e9")).status_code == 400
    first = app.app.state.service.jobs.requests[0]
    assert (first.user_id, first.avatar_id, first.kind, first.paths, first.force) == (
        "a b",
        "7",
        "ingest",
        ["a.md"],
        True,
    )
