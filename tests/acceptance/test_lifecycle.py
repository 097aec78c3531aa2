"""Start, stop, lose everything local, start again: what was answered is answered again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chromadb
import pytest

from tests.support.service import Service, environment, run_cli
from tests.support.store import S3Server

FACT = "# Kettle\n\nThe warranty of the kettle lasts two years.\n"
QUESTION = {"text": "How long is the guarantee?", "n_results": 1}


def _tell(service: Service) -> dict[str, object]:
    service.ok("PUT", "/users/42/avatars/7/documents/kettle.md", content=FACT.encode())
    service.ok("POST", "/users/42/avatars/7/ingest?wait_s=50")
    answer: dict[str, object] = service.ok("POST", "/users/42/avatars/7/query", json=QUESTION).json()
    assert "two years" in str(answer)
    return answer


def test_the_answer_survives_the_loss_of_everything_local(own_service: Service) -> None:
    """Stop, delete the replicas, start, ask again: the same answer comes from object storage."""
    answer = _tell(own_service)
    assert own_service.stop() == 0
    own_service.delete_replicas()
    own_service.start()
    again = own_service.ok("POST", "/users/42/avatars/7/query", json=QUESTION)
    assert again.json() == answer
    assert again.headers["x-vectorpool-commit"] == "1"


def test_what_was_acknowledged_survives_a_kill(own_service: Service) -> None:
    """After SIGKILL, a new instance over the same store and the same replica directory answers as before."""
    answer = _tell(own_service)
    own_service.kill()
    own_service.start()
    assert own_service.ok("POST", "/users/42/avatars/7/query", json=QUESTION).json() == answer


def test_a_write_under_way_is_finished_before_the_end(own_service: Service) -> None:
    """SIGTERM lets a write that has begun finish, acknowledge and stay; the exit code is 0."""
    own_service.ok("POST", "/users/42/collections", json={"name": "notes"})
    records = [{"id": f"r{number}", "document": f"Sentence number {number} of many."} for number in range(150)]
    with ThreadPoolExecutor(1) as threads:
        write = threads.submit(
            own_service.request, "POST", "/users/42/collections/notes/records", json={"records": records}
        )
        while '"route":"/users/{user_id}/collections"' not in own_service.errors:
            time.sleep(0.01)
        # Embedding so many takes longer than this; where it does not, the claim holds all the same.
        time.sleep(0.2)
        assert own_service.stop() == 0
        assert write.result().status_code == 201
    own_service.start()
    assert own_service.ok("GET", "/users/42/collections/notes/count").json() == {"count": 150}


def test_the_same_on_a_real_s3(tmp_path: Path, radosgw_server: S3Server) -> None:
    """The whole circle with --store s3://bucket/prefix against radosgw."""
    _circle_on_s3(tmp_path, radosgw_server)


@pytest.mark.long
def test_the_same_on_moto(tmp_path: Path, moto_server: S3Server) -> None:
    """The whole circle with --store s3://bucket/prefix against moto's server."""
    _circle_on_s3(tmp_path, moto_server)


def _circle_on_s3(tmp_path: Path, server: S3Server) -> None:
    store = f"s3://{server.make_bucket()}/some/prefix"
    service = Service(tmp_path, store=store, env=server.environ(store)).start()
    try:
        answer = _tell(service)
        assert service.stop() == 0
        service.delete_replicas()
        service.start()
        assert service.ok("POST", "/users/42/avatars/7/query", json=QUESTION).json() == answer
    finally:
        service.close()


def test_it_says_where_it_listens_and_what_to_try(own_service: Service) -> None:
    """The first lines name the address, the store, the replicas, and requests that work."""
    said = "".join(own_service.output)
    for text in (own_service.store, str(own_service.replica_dir), "write-through", "/schema", "curl -X PUT"):
        assert text in said


def test_the_front_process_never_imports_chroma(tmp_path: Path) -> None:
    """An application with shard processes serves a request without chromadb in its modules."""
    script = f"""
import asyncio, sys, httpx
from vectorpool.app import create_app
from vectorpool.configuration import load_settings
async def main():
    root = {str(tmp_path)!r}
    app = create_app(load_settings({{"store": root + "/store", "replica_dir": root + "/replicas", "shards": 1}}))
    transport = httpx.ASGITransport(app)
    async with app.app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.post("/users/42/collections", json={{"name": "notes"}})
        assert response.status_code == 201, response.text
        body = {{"records": [{{"id": "a", "document": "text"}}]}}
        response = await client.post("/users/42/collections/notes/records", json=body)
        assert response.status_code == 201, response.text
    print([name for name in ("chromadb", "chromadb_rust_bindings") if name in sys.modules])
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr[-3000:]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "70000"], "port"),
        (["--store", "ftp://x/y"], "ftp"),
        (["--host", "no.such.host.invalid"], "listen"),
        (["--config", "/no/such/file.toml"], "/no/such/file.toml"),
        (["--durability", "sometimes"], "durability"),
    ],
)
def test_a_configuration_that_cannot_work_is_one_sentence(tmp_path: Path, flags: list[str], words: str) -> None:
    """Exit code 2, one line on stderr that names the culprit, and no traceback."""
    done = run_cli("serve", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and words in lines[0], done.stderr


def test_two_instances_do_not_share_replicas(own_service: Service) -> None:
    """A second instance over the same replica directory is refused in a sentence."""
    places = ["--store", own_service.store, "--replica-dir", str(own_service.replica_dir), "--port", "0"]
    done = run_cli("serve", *places)
    assert done.returncode == 2
    assert "--replica-dir" in done.stderr and "Traceback" not in done.stderr


# --- The command line --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "deep" / "kettle.md").write_text(FACT)
    (docs / "cats.txt").write_text("Cats sleep all day.")
    (docs / ".hidden").write_text("not this")
    return docs


def test_the_command_line_works_beside_a_running_service(own_service: Service, folder: Path) -> None:
    """Ingested by a command, found by the service; a second ingest uploads and embeds only what changed."""
    where = ["--user", "42", "--avatar", "7", "--store", own_service.store]
    own_service.ok("POST", "/users/42/collections", json={"name": "before"})
    done = run_cli("ingest", str(folder), *where)
    assert done.returncode == 0, done.stderr
    assert "2 ingested" in done.stdout
    passage = own_service.ok("POST", "/users/42/avatars/7/query", json=QUESTION).json()["results"][0][0]
    assert passage["path"] == "deep/kettle.md"
    assert own_service.ok("GET", "/users/42/collections/before/count").json() == {"count": 0}
    (folder / "cats.txt").write_text("Cats sleep all night.")
    done = run_cli("ingest", str(folder), *where)
    assert "1 ingested" in done.stdout and "1 unchanged" in done.stdout, done.stdout + done.stderr
    done = run_cli("query", QUESTION["text"], "-n", "1", *where)  # type: ignore[arg-type]
    assert done.returncode == 0
    assert "deep/kettle.md" in done.stdout and "two years" in done.stdout
    (folder / "picture.bin").write_bytes(b"\x00\x01")
    done = run_cli("ingest", str(folder), *where)
    assert done.returncode == 1
    assert "picture.bin" in done.stderr and "2 unchanged, 1 failed" in done.stdout


def test_logs_are_listed_scrubbed_exported_and_imported(tmp_path: Path, folder: Path) -> None:
    """A store made by the command line is listed, verified, written out as plain Chroma, and taken in again."""
    store = ["--store", str(tmp_path / "store"), "--replica-dir", str(tmp_path / "replicas")]
    assert run_cli("ingest", str(folder), "--user", "42", "--avatar", "7", *store).returncode == 0
    assert run_cli("users", *store).stdout.split() == ["42"]
    log = run_cli("log", "42", *store)
    assert log.returncode == 0 and "documents" in log.stdout
    exported = tmp_path / "exported"
    done = run_cli("export", "42", str(exported), *store)
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    client = chromadb.PersistentClient(str(copy), database="avatar-7")
    assert client.get_collection("documents").count() == 2
    done = run_cli("export", "42", str(exported), *store)
    assert done.returncode == 1 and "empty" in done.stderr
    done = run_cli("import", str(exported), "--user", "43", *store)
    assert done.returncode == 0, done.stderr
    done = run_cli("import", str(exported), "--user", "43", *store)
    assert done.returncode == 1 and "already" in done.stderr
    assert run_cli("users", *store).stdout.split() == ["42", "43"]
    question = run_cli("query", "guarantee", "--user", "43", "--avatar", "7", "-n", "1", *store)
    assert "two years" in question.stdout
    scrubbed = run_cli("scrub", "--all", *store)
    assert scrubbed.returncode == 0 and "0 damaged" in scrubbed.stdout
    victim = max((tmp_path / "store").rglob("users/42/vectorstore/log/*"), key=lambda file: file.stat().st_size)
    damaged = bytearray(victim.read_bytes())
    damaged[-1] ^= 1
    victim.write_bytes(bytes(damaged))
    scrubbed = run_cli("scrub", "42", "43", *store)
    assert scrubbed.returncode == 1
    assert "42: DAMAGED" in scrubbed.stdout and victim.name in scrubbed.stdout and "43: intact" in scrubbed.stdout


def test_commands_refuse_in_a_sentence(tmp_path: Path) -> None:
    """Unknown users, ids that leave the prefix and stores that are not there end with a sentence and no traceback."""
    store = ["--store", str(tmp_path / "store")]
    for arguments in (
        ["log", "nobody", *store],
        ["log", "../x", *store],
        ["export", "nobody", str(tmp_path / "out"), *store],
        ["query", "a question", "--user", "nobody", "--avatar", "7", *store],
        ["import", str(tmp_path), "--user", "42", *store],
        ["ingest", str(tmp_path), "--user", "..", "--avatar", "7", *store],
    ):
        done = run_cli(*arguments)
        assert done.returncode in (1, 2), arguments
        assert "Traceback" not in done.stderr
        assert done.stderr.strip().endswith("."), done.stderr


def test_help_teaches() -> None:
    """Every command has help with an example, and serve's lists every setting."""
    done = run_cli("--help")
    assert done.returncode == 0
    for command in ("serve", "ingest", "query", "users", "log", "scrub", "export", "import"):
        assert f"  {command} " in done.stdout
        told = run_cli(command, "--help")
        assert told.returncode == 0 and f"vectorpool {command} " in told.stdout
    from vectorpool.configuration import describe_settings

    told = run_cli("serve", "--help")
    assert all(row.flag in told.stdout for row in describe_settings())
