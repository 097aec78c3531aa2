"""Shards as processes: routing, death and restart, a front that is killed, and one owner of a directory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.instances import NOTES, Instance, upsert
from vectorpool.commands import Command, CountRecords, Flush, GetRecords, Inspect
from vectorpool.context import RequestContext
from vectorpool.errors import DeadlineExceeded, Misconfigured, OutcomeUnknown, ShardUnavailable, VectorpoolError
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.pool import stores
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings
from vectorpool.shard.router import ShardRouter, shard_of

COUNT = CountRecords(collection="notes")


def _settings(root: Path, **options: object) -> Settings:
    values: dict[str, object] = {
        "store": str(root / "store"),
        "replica_dir": str(root / "replicas"),
        "shards": 2,
        "workers": 2,
        "log_level": "warning",
    }
    return Settings(**(values | options))


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[ShardRouter]:
    """Two shards over a directory."""
    made = ShardRouter(_settings(tmp_path))
    await made.start()
    yield made
    await made.stop()


def _user_of(shard: int) -> str:
    return next(user for user in map(str, range(100)) if shard_of(user, 2) == shard)


async def _until_ready(router: ShardRouter) -> None:
    async with asyncio.timeout(60):
        while not router.is_ready():
            await asyncio.sleep(0.02)


async def _until_gone(process: int) -> None:
    async with asyncio.timeout(60):
        while Path(f"/proc/{process}").exists() and "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]:
            await asyncio.sleep(0.02)


async def _eventually(router: ShardRouter, user: str, command: Command) -> bytes:
    """Send a command that is safe to repeat until a shard takes it."""
    async with asyncio.timeout(60):
        while True:
            try:
                return (await router.execute(user, command)).body
            except ShardUnavailable:
                await asyncio.sleep(0.05)


def test_routing_by_hash_is_the_same_in_every_process() -> None:
    """A user's shard follows from the id alone: the same today, tomorrow and whatever Python's own hash does."""
    users = ["42", "anna@example.org", "Ünï cøde", *map(str, range(1000))]
    here = [shard_of(user, 7) for user in users]
    script = f"from vectorpool.shard.router import shard_of; print([shard_of(u, 7) for u in {users!r}])"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        assert json.loads(done.stdout) == here
    counts = [here.count(shard) for shard in range(7)]
    assert min(counts) > 0.5 * max(counts)


def test_the_front_loads_no_chroma() -> None:
    """Importing the router loads neither chromadb nor its bindings."""
    script = "import sys, vectorpool.shard.router; print([m for m in sys.modules if m.startswith('chromadb')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _hurried(timeout_s: float) -> RequestContext:
    context = RequestContext("hurried", timeout_s=timeout_s)
    context.start()
    return context


async def test_a_shard_that_stands_still_is_left_at_the_deadline(router: ShardRouter) -> None:
    """A frozen shard answers nothing: reads end without a change, the outcome of writes is unknown; then it goes on."""
    user = _user_of(0)
    await router.execute(user, NOTES)
    process = router.clients[0].process_id
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded):
            await router.execute(user, COUNT, _hurried(0.2))
        with pytest.raises(OutcomeUnknown):
            await router.execute(user, upsert("a"), _hurried(0.2))
        gone = asyncio.create_task(router.execute(user, COUNT, _hurried(60)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
    finally:
        os.kill(process, signal.SIGCONT)
    await router.execute(user, upsert("b"))
    body = (await router.execute(user, GetRecords(collection="notes"))).body
    assert {record["id"] for record in json.loads(body)["records"]} in ({"b"}, {"a", "b"})


async def test_each_user_is_open_in_its_own_shard(router: ShardRouter) -> None:
    """Commands of a user reach the shard of its hash, and the instance's view names it."""
    users = [_user_of(0), _user_of(1)]
    for user in users:
        await router.execute(user, NOTES)
    view = await router.pool_view()
    assert {slot.user_id: slot.shard for slot in view.slots} == {users[0]: 0, users[1]: 1}
    assert view.open_slots == 2


async def test_answers_cross_as_the_bytes_that_the_pool_made(tmp_path: Path, router: ShardRouter) -> None:
    """A large answer with every kind of character is byte for byte what a pool in this process answers."""
    user = _user_of(0)
    await router.execute(user, NOTES)
    text = 'Ünï cøde 🙂 \x00\u2028\\"' * 2000
    ids = [f"r{n}" for n in range(50)]
    await router.execute(user, upsert(*ids, documents=[text] * 50, metadatas=[{"n": n / 3} for n in range(50)]))
    command = GetRecords(collection="notes", include=("documents", "metadatas", "embeddings"))
    crossed = await router.execute(user, command)
    assert len(crossed.body) > 2_000_000
    async with Instance(tmp_path, DirectoryBucket(tmp_path / "store")) as here:
        assert await here.answer(command, user) == crossed


async def test_errors_cross_with_their_class(router: ShardRouter) -> None:
    """A refusal in a shard is the same error, with its members, in the front."""
    await router.execute("42", NOTES)
    await router.execute("42", upsert("a"))
    with pytest.raises(VectorpoolError) as caught:
        await router.execute("42", upsert("b", vectors=upsert("b", "c").vectors))
    assert caught.value.code == "invalid-embedding"
    assert caught.value.status == 400


async def test_a_killed_shard_is_started_again(router: ShardRouter) -> None:
    """After SIGKILL a shard is a new process that answers with all that was acknowledged; the other never stopped."""
    users = [_user_of(0), _user_of(1)]
    for user in users:
        await router.execute(user, NOTES)
        await router.execute(user, upsert("a", "b"))
    killed, other = (client.process_id for client in router.clients)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert (await router.execute(users[1], COUNT)).body == b'{"count":2}'
    assert await _eventually(router, users[0], COUNT) == b'{"count":2}'
    await _until_ready(router)
    assert router.clients[0].process_id not in (None, killed)
    assert router.clients[1].process_id == other


async def test_a_write_in_flight_when_its_shard_dies_has_an_unknown_outcome(router: ShardRouter) -> None:
    """A killed shard's writes under way are told that their outcome is unknown, its reads that they may be repeated."""
    user = _user_of(0)
    await router.execute(user, NOTES)
    await router.execute(user, upsert("acknowledged"))
    process = router.clients[0].process_id
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    write = asyncio.create_task(router.execute(user, upsert("unknown")))
    read = asyncio.create_task(router.execute(user, COUNT))
    await asyncio.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(OutcomeUnknown):
        await write
    with pytest.raises(ShardUnavailable):
        await read
    # The stopped shard never read the write, so it is not there; what was acknowledged is.
    page = json.loads(await _eventually(router, user, GetRecords(collection="notes")))
    assert [record["id"] for record in page["records"]] == ["acknowledged"]


async def test_killing_a_shard_again_and_again_loses_nothing(router: ShardRouter) -> None:
    """Three kills under writes: every acknowledged record is there, and nothing that was not sent."""
    user = _user_of(0)
    await router.execute(user, NOTES)
    acknowledged: list[str] = []
    sent = 0
    for _ in range(3):
        await _until_ready(router)
        process = router.clients[0].process_id
        assert process is not None
        asyncio.get_running_loop().call_later(0.15, os.kill, process, signal.SIGKILL)
        while True:
            record_id = f"r{sent}"
            sent += 1
            try:
                await router.execute(user, upsert(record_id))
            except (OutcomeUnknown, ShardUnavailable):
                break
            acknowledged.append(record_id)
    page = json.loads(await _eventually(router, user, GetRecords(collection="notes")))
    found = [record["id"] for record in page["records"]]
    print(f"{len(acknowledged)} acknowledged over 3 kills, {len(set(acknowledged) - set(found))} lost")
    assert acknowledged
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found) <= {f"r{n}" for n in range(sent)}


FRONT = """
import asyncio, sys, msgspec
from tests.support.instances import NOTES, upsert
from vectorpool.settings import Settings
from vectorpool.shard.router import ShardRouter

async def main():
    router = ShardRouter(msgspec.json.decode(sys.argv[1], type=Settings))
    await router.start()
    await router.execute("42", NOTES)
    await router.execute("42", upsert("a", "b"))
    print(*(client.process_id for client in router.clients), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_shard_whose_front_was_killed_commits_and_leaves(tmp_path: Path) -> None:
    """SIGKILL of the front alone: its shards commit what write-back acknowledged, end, and free their directory."""
    settings = _settings(tmp_path, durability="write-back", write_back_interval_s=3600)
    wire = json.dumps({name: getattr(settings, name) for name in settings.__struct_fields__})
    front = subprocess.Popen([sys.executable, "-c", textwrap.dedent(FRONT), wire], stdout=subprocess.PIPE, text=True)
    assert front.stdout is not None
    try:
        shards = [int(word) for word in (await asyncio.to_thread(front.stdout.readline)).split()]
        assert len(shards) == 2
        async with Instance(tmp_path, DirectoryBucket(tmp_path / "store")) as other:
            assert (await other.refusal(COUNT)).code == "user-not-found"
            front.kill()
            front.wait()
            for process in shards:
                await _until_gone(process)
            assert await other.do(COUNT) == {"count": 2}
    finally:
        front.kill()
        front.wait()
        front.stdout.close()
    for shard in range(2):
        StoreFactory(DirectoryBucket(tmp_path / "store"), settings, shard=shard).close()


async def test_a_replica_directory_belongs_to_one_instance(
    tmp_path: Path, router: ShardRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second instance over the same replica directory is refused with what to do, and the first goes on."""
    await router.execute("42", NOTES)
    # A new instance waits for an old one to leave; here it never does.
    monkeypatch.setattr(stores, "_CLAIM_ATTEMPTS", 2)
    with pytest.raises(Misconfigured, match=r"Another instance uses the replica directory .*--replica-dir"):
        StoreFactory(DirectoryBucket(tmp_path / "store"), _settings(tmp_path), shard=0)
    await router.execute("42", upsert("a"))
    assert (await router.execute("42", COUNT)).body == b'{"count":1}'


async def test_a_shard_that_cannot_start_says_why(tmp_path: Path) -> None:
    """Starting over a replica directory that is a file is Misconfigured, and no process stays behind."""
    (tmp_path / "replicas").write_text("a file")
    made = ShardRouter(_settings(tmp_path))
    with pytest.raises(Misconfigured, match=r"The shard cannot start: .*replicas"):
        await made.start()
    assert [client.process_id for client in made.clients] == [None, None]
    assert not made.is_ready()


async def test_stopping_commits_and_ends_the_processes(tmp_path: Path) -> None:
    """A stop under write-back commits what is dirty, ends every shard, and later commands are refused."""
    router = ShardRouter(_settings(tmp_path, durability="write-back", write_back_interval_s=3600))
    await router.start()
    processes = [client.process_id for client in router.clients]
    users = [_user_of(0), _user_of(1)]
    for user in users:
        await router.execute(user, NOTES)
        await router.execute(user, upsert("a"))
    assert json.loads((await router.execute(users[0], Inspect())).body)["dirty"]
    await router.stop()
    assert not any(Path(f"/proc/{process}").exists() for process in processes)
    with pytest.raises(VectorpoolError):
        await router.execute(users[0], Flush())
    async with Instance(tmp_path, DirectoryBucket(tmp_path / "store")) as other:
        for user in users:
            assert await other.do(COUNT, user) == {"count": 1}
