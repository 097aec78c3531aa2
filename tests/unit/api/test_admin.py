"""The routes of operators, over a router that only remembers and a bucket in memory."""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.api.parts import FakeRouter, application, talk
from vectorpool import commands, names
from vectorpool.answers import Answer
from vectorpool.api import transfers
from vectorpool.commitlog.log import CommitLog
from vectorpool.front.pipeline import Pipeline
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketMissing, BucketUnavailable
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.watch import StoreWatch
from vectorpool.operating import Exported, Imported
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM

FILES = {"chroma.sqlite3": b"a database" * 1000, "6f7c/data.bin": bytes(700_000), "empty": b""}


class Shard(FakeRouter):
    """Writes and takes directories as a shard does."""

    def __init__(self) -> None:
        super().__init__()
        self.imported: dict[str, bytes] = {}
        self.directories: list[Path] = []

    async def execute(self, user_id: str, command: Any, context: Any) -> Answer:
        answer = await super().execute(user_id, command, context)
        if isinstance(command, commands.ExportTo):
            self.directories.append(Path(command.directory))
            for path, data in FILES.items():
                file = self.directories[-1] / path
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(data)
            return Answer(msgspec.json.encode(Exported(17, 700_000)), 17)
        if isinstance(command, commands.ImportFrom):
            root = Path(command.directory)
            self.imported = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
            return Answer(msgspec.json.encode(Imported(user_id, 1)), 1)
        if isinstance(command, commands.DeleteVectorstore):
            return Answer(b'{"deleted":0}', 0)
        if isinstance(command, commands.Compact):
            return Answer(b'{"objects":0,"bytes":0}', 17)
        return answer


def built(tmp_path: Path, router: FakeRouter | None = None) -> tuple[Pipeline, Any, Bucket]:
    app = application(router or Shard(), Settings(replica_dir=str(tmp_path)))
    return app, app.app.state.service, app.app.state.service.library.bucket


async def audited(service: Any) -> list[tuple[str, str, str | None]]:
    from vectorpool.audit import Query

    page = await service.audit.page(Query(), limit=100)
    return [(entry.action, entry.outcome, entry.user_id) for entry in page.entries]


# --- Users -------------------------------------------------------------------------------------------


async def test_users_are_listed_in_pages(tmp_path: Path) -> None:
    """Each once, foreign names beside them, and a wrong cursor is refused as that."""
    app, _, bucket = built(tmp_path)
    for name in ("a", "b", "c", "d", " spaced "):
        await bucket.put(f"users/{name}/avatars/7/vectorstore_data/x.txt", b"x")
    found, refused, cursor = list[str](), list[str](), ""
    async with talk(app) as client:
        for _ in range(10):
            page = (
                await client.get("/admin/users", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
            ).json()
            found += [row["user_id"] for row in page["users"]]
            refused += page["refused"]
            if not (cursor := page["next_cursor"] or ""):
                break
        assert found == ["a", "b", "c", "d"] and len(refused) == 1
        for wrong in ("x", "%00", "YQ==", "é"):
            answer = await client.get("/admin/users", params={"cursor": wrong})
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
        assert (await client.get("/admin/users?limit=0")).status_code == 400
        assert (await client.get("/admin/users?limit=1001")).status_code == 400


class Counting(MemoryBucket):
    """Counts what a page of users asks the store."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> Any:
        self.asked += 1
        return await super().list_objects(prefix, limit=limit, after=after)


async def test_a_page_of_users_costs_the_same_however_many_there_are() -> None:
    """Requests follow the page, not the users."""
    from vectorpool.commitlog.everyone import users_page

    asked = []
    for users in (20, 2000):
        bucket = Counting()
        for number in range(users):
            await bucket.put(f"users/u{number:06}/avatars/7/vectorstore_data/x", b"x")
        assert len((await users_page(bucket, limit=10)).users) == 10
        asked.append(bucket.asked)
    assert asked[0] == asked[1] <= 20


async def test_a_deleted_and_a_damaged_user_say_so(tmp_path: Path) -> None:
    """The first is marked, with its receipt's time; the second has the reason, and does not fail the page."""
    from vectorpool.commitlog.everyone import users_page

    bucket = MemoryBucket()
    await CommitLog(bucket, "gone", settings=Settings()).end(seal=True)
    await bucket.put(names.log_prefix("torn") + names.commit_name(3), b"x" * 100)
    page = await users_page(bucket, limit=10)
    gone, torn = page.users
    assert gone.is_deleted and gone.commit == 1 and gone.verified_empty_at_ms
    assert torn.damage and not torn.is_deleted


# --- Shards, tasks, keeping open ---------------------------------------------------------------------


async def test_a_shard_is_restarted_and_that_is_told(tmp_path: Path) -> None:
    """With and without force; a number that is none is refused."""
    router = Shard()
    app, service, _ = built(tmp_path, router)
    async with talk(app) as client:
        assert (await client.post("/admin/shards/0/restart")).json()["state"] == "ready"
        assert (await client.post("/admin/shards/0/restart?force=true")).status_code == 200
        for wrong in ("x", "1.5", "-1"):
            assert (await client.post(f"/admin/shards/{wrong}/restart")).status_code in (400, 404)
        assert (await client.get("/admin/shards")).json()["shards"][0]["process_id"] == 1
        tasks = (await client.get("/admin/tasks")).json()
        assert tasks == {"tasks": []}
    assert router.restarts == [(0, False), (0, True)]
    assert await audited(service) == [("restart-shard", "done", None)] * 2


@pytest.mark.parametrize(
    "body", [b'{"for_s": 0}', b'{"for_s": -1}', b'{"for_s": 1e9}', b'{"for": 1}', b"[]", b'{"for_s": "1"}']
)
async def test_a_wrong_time_to_keep_open_is_refused(body: bytes, tmp_path: Path) -> None:
    """It is no time, and reaches no shard."""
    router = Shard()
    async with talk(built(tmp_path, router)[0]) as client:
        assert (await client.put("/admin/users/42/keep-open", content=body)).status_code == 400
    assert router.commands == []


async def test_operations_are_told(tmp_path: Path) -> None:
    """Each of them is one entry of the audit, with the user."""
    app, service, _ = built(tmp_path)
    async with talk(app) as client:
        for method, path in (
            ("POST", "hydrate"),
            ("POST", "flush"),
            ("POST", "evict"),
            ("PUT", "keep-open"),
            ("DELETE", "keep-open"),
            ("POST", "compact"),
            ("POST", "scrub"),
        ):
            answer = await client.request(method, f"/admin/users/42/{path}")
            assert answer.status_code == 200, answer.text
    told = ["hydrate", "flush", "evict", "keep-open", "end-keep-open", "compact", "scrub"]
    assert sorted(await audited(service)) == sorted((action, "done", "42") for action in told)


async def test_the_audit_is_read_by_day_user_and_action(tmp_path: Path) -> None:
    """Over HTTP, with wrong parameters refused."""
    app, _, _ = built(tmp_path)
    async with talk(app) as client:
        for user in ("42", "43"):
            await client.post(f"/admin/users/{user}/evict", headers={"x-request-id": f"r-{user}"})
        page = (await client.get("/admin/audit", params={"user": "43", "action": "evict"})).json()
        assert [(e["user_id"], e["caller"], e["request_id"]) for e in page["entries"]] == [("43", "anybody", "r-43")]
        assert (await client.get("/admin/audit?since=2100-01-01")).json()["entries"] == []
        for wrong in ("since=yesterday", "until=2026-99-99", "cursor=x", "limit=0", "action=A", "user=.."):
            assert (await client.get(f"/admin/audit?{wrong}")).status_code == 400, wrong


# --- Ready -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state", "status"),
    [
        (BucketDenied("AccessDenied"), "refuses", "store-refused"),
        (BucketMissing("no bucket"), "refuses", "store-refused"),
        (BucketUnavailable("no answer"), "silent", "ready"),
    ],
)
async def test_a_store_that_refuses_is_told_apart(error: Exception, state: str, status: str, tmp_path: Path) -> None:
    """Twice in a row, and the instance is not ready; one that is silent is a reason, and no refusal."""

    class Refusing(MemoryBucket):
        async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> Any:
            raise error

    app, service, _ = built(tmp_path)
    watch = StoreWatch(Refusing(), SYSTEM)
    app.app.state.service = service.__class__(**{**vars(service), "store": watch})
    await watch.ask()
    async with talk(app) as client:
        assert (await client.get("/health/ready")).json() == {"status": "ready"}
        await watch.ask()
        open_form, told = await client.get("/health/ready"), (await client.get("/admin/ready")).json()
        assert open_form.json() == {"status": status} and told["status"] == status
        assert told["store"] == state and "object store" in told["reasons"][0]


async def test_a_draining_instance_says_so(tmp_path: Path) -> None:
    """Both forms, with 503."""
    app, _, _ = built(tmp_path)
    await app.draining.leave(0.1)
    async with talk(app) as client:
        ready, told = await client.get("/health/ready"), await client.get("/admin/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    assert (told.status_code, told.json()["reasons"]) == (503, ["The instance shuts down."])


# --- Export and import -------------------------------------------------------------------------------


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def scratch(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "scratch").iterdir()) if (tmp_path / "scratch").is_dir() else []


async def test_an_export_is_the_directory_as_a_tar(tmp_path: Path) -> None:
    """Its length is told before, Python's own tar reads it, and its directory is gone afterwards."""
    router = Shard()
    app, service, _ = built(tmp_path, router)
    async with talk(app) as client:
        answer = await client.get("/admin/users/42/export?at=5")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["x-vectorpool-commit"] == "17"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert {m.name: tar.extractfile(m).read() for m in tar.getmembers()} == FILES  # type: ignore[union-attr]
    assert router.commands[0][1].commit == 5 and not router.directories[0].exists()
    assert await audited(service) == [("export", "begun", "42"), ("export", "done", "42")]


async def test_an_import_is_the_directory_of_a_tar(tmp_path: Path) -> None:
    """Every file arrives as it is, and the directory is gone afterwards."""
    router = Shard()
    app, service, _ = built(tmp_path, router)
    async with talk(app) as client:
        answer = await client.put("/admin/users/42/import", content=archive(FILES))
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"user_id": "42", "commit": 1, "files": 3, "bytes": sum(map(len, FILES.values()))}
    assert router.imported == FILES and scratch(tmp_path) == []
    assert (await audited(service))[-1] == ("import", "done", "42")


async def test_an_archive_that_breaks_off_imports_nothing(tmp_path: Path) -> None:
    """Wherever it ends: no shard is asked, and nothing stays on disk."""
    router = Shard()
    app, service, _ = built(tmp_path, router)
    whole = archive(FILES)
    async with talk(app) as client:
        for end in (0, 1, 511, 512, 600, 11_000, len(whole) // 2):
            answer = await client.put("/admin/users/42/import", content=whole[:end])
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request"), end
    assert router.commands == [] and scratch(tmp_path) == []
    assert {outcome for _, outcome, _ in await audited(service)} == {"begun", "failed"}


async def test_a_caller_that_leaves_imports_nothing(tmp_path: Path) -> None:
    """A connection that ends in the middle: no shard is asked, and nothing stays on disk."""
    router = Shard()
    app, _, _ = built(tmp_path, router)
    whole, sent = archive(FILES), 0

    async def receive() -> Any:
        nonlocal sent
        sent += 1
        if sent <= 3:
            return {"type": "http.request", "body": whole[(sent - 1) * 1000 : sent * 1000], "more_body": True}
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        assert message["type"] != "http.response.start" or message["status"] >= 400

    scope: Any = {
        "type": "http",
        "method": "PUT",
        "path": "/admin/users/42/import",
        "raw_path": b"/admin/users/42/import",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-length", str(len(whole)).encode())],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    assert router.commands == [] and scratch(tmp_path) == []


async def test_exports_and_imports_have_a_bound(tmp_path: Path) -> None:
    """More than a few at once are 429; a place is free again when one ends."""
    app, _, _ = built(tmp_path)
    held = [app.app.state.transfers.place() for _ in range(transfers.MOST_AT_ONCE)]
    for place in held:
        await place.__aenter__()
    async with talk(app) as client:
        assert (await client.get("/admin/users/42/export")).json()["code"] == "queue-full"
        assert (await client.put("/admin/users/42/import", content=b"")).json()["code"] == "queue-full"
        await held[0].__aexit__(None, None, None)
        assert (await client.get("/admin/users/42/export")).status_code == 200
    for place in held[1:]:
        await place.__aexit__(None, None, None)
    assert scratch(tmp_path) == []


async def test_an_export_whose_reader_leaves_is_removed(tmp_path: Path) -> None:
    """The caller closes its connection: no more is read for it, the directory is gone and the place is free."""
    router = Shard()
    app, _, _ = built(tmp_path, router)
    parts = 0

    left = asyncio.Event()

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal parts
        parts += 1
        if parts == 2:
            left.set()
        assert message["type"] == "http.response.start" or message["more_body"], "it ended as if it were whole"
        await asyncio.sleep(0.01)

    scope: Any = {
        "type": "http",
        "method": "GET",
        "path": "/admin/users/42/export",
        "raw_path": b"/admin/users/42/export",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    assert parts <= 4 and scratch(tmp_path) == [] and app.app.state.transfers._under_way == 0
