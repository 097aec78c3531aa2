"""Operators at work, as they work: the served product, its command line, and a bucket without a service."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.service import Service, run_cli
from tests.support.shards import shard_ids
from vectorpool.cli import main

ADMIN_KEY = "operators-key-of-this-test-0123456789"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
SECRET = "a-secret-of-this-test-0123456789abcdef"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with tokens, small bodies, and little patience with slow callers."""
    folder = tmp_path_factory.mktemp("served")
    flags = ("--shards", "2", "--max-body-bytes", "100000", "--transfer-timeout-s", "1", "--insecure-open")
    env = {"VECTORPOOL_ADMIN_KEY": ADMIN_KEY, "VECTORPOOL_TOKEN_SECRET": SECRET}
    running = Service(folder, *flags, env=env).start()
    minted = running.ok("POST", "/admin/tokens", headers=ADMIN, json={"users": "*", "access": "write"}).json()
    running.client.headers["Authorization"] = f"Bearer {minted['token']}"
    yield running
    running.close()


def fill(service: Service, user: str, records: int = 5) -> None:
    service.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
    rows = [
        {"id": f"r{number}", "embedding": [number, 1, 2], "document": f"text {number}"} for number in range(records)
    ]
    service.ok("PUT", f"/users/{user}/collections/notes/records", json={"records": rows})


def count(service: Service, user: str) -> int:
    return int(service.ok("GET", f"/users/{user}/collections/notes").json()["count"])


def run_here(*arguments: str, **env: str) -> Result:
    """Run a command in this process, which takes a hundredth of a start; its umask does not stay."""
    umask = os.umask(0o022)
    os.umask(umask)
    # Not to be found in this machine's environment.
    own = dict.fromkeys((name for name in os.environ if name.startswith("VECTORPOOL_")), None)
    try:
        return CliRunner().invoke(main, arguments, env={**own, **env}, prog_name="vectorpool")
    finally:
        os.umask(umask)


def cli(service: Service, *arguments: str, fails: bool = False, key: str = ADMIN_KEY) -> str:
    """Run a command against the service, with the token in the environment; return what it prints."""
    done = run_here(*arguments, "--service", service.url, VECTORPOOL_TOKEN=key)
    assert (done.exit_code != 0) == fails, f"{arguments}: {done.exit_code}\n{done.output}\n{done.exception}"
    return done.stderr if fails else done.stdout


def on_store(service: Service, *arguments: str, fails: bool = False) -> str:
    """Run a command straight on the store; return what it prints."""
    place = ("--store", service.store, "--replica-dir", str(service.replica_dir.parent / "of-the-command-line"))
    done = run_here(*arguments, *place)
    assert (done.exit_code != 0) == fails, f"{arguments}: {done.exit_code}\n{done.output}\n{done.exception}"
    return done.stderr if fails else done.stdout


def test_the_command_line_does_what_the_routes_do(served: Service, tmp_path: Path) -> None:
    """Each command against the service, with its answer for people and, where a program reads it, as JSON."""
    fill(served, "alice")
    assert "alice" in cli(served, "admin", "users") and "alice" in on_store(served, "admin", "users")
    rows = [json.loads(line) for line in cli(served, "admin", "users", "--json", "--limit", "1").splitlines()]
    assert len(rows) == 1 and rows[0]["commit"] >= 2
    assert "ready" in cli(served, "admin", "pool") and "ready\n" in cli(served, "admin", "ready")
    assert "kept open until" in cli(served, "admin", "keep-open", "alice", "--for", "60")
    assert "kept open" not in cli(served, "admin", "keep-open", "alice", "--end")
    assert "cold" in cli(served, "admin", "evict", "alice") and "ready" in cli(served, "admin", "hydrate", "alice")
    for name in ("flush", "compact", "scrub"):
        cli(served, "admin", name, "alice")
    assert "intact" in on_store(served, "admin", "scrub", "alice")
    tasks = json.loads(cli(served, "admin", "tasks", "--json"))["tasks"]
    assert any(task["next_run_ms"] for task in tasks if task["name"] == "watch of the store")
    before = json.loads(cli(served, "admin", "shards", "--json"))["shards"]
    cli(served, "admin", "restart", "0")
    after = json.loads(cli(served, "admin", "shards", "--json"))["shards"]
    assert after[0]["process_id"] != before[0]["process_id"] and after[1]["process_id"] == before[1]["process_id"]
    assert count(served, "alice") == 5
    assert "shard-not-found" in cli(served, "admin", "restart", "7", fails=True)
    told = cli(served, "audit", "--action", "restart-shard")
    assert "restart-shard  done  by admin" in told or "restart-shard  done" in told


def test_limits_are_set_by_the_command_line(served: Service) -> None:
    """On the service and on the bucket: shown, replaced, taken away, deleted; nonsense names what is near."""
    shown = json.loads(cli(served, "admin", "limits", "gwen", "--json"))
    assert (shown["stored"], shown["in_force"]) == (None, {})
    cli(served, "admin", "limits", "gwen", "records=3", "requests_per_s=0.5", "burst=")
    on_bucket = json.loads(on_store(served, "admin", "limits", "gwen", "--json"))
    assert on_bucket["stored"] == {"records": 3, "requests_per_s": 0.5, "burst": None}
    assert on_bucket["in_force"]["records"] == {"value": 3, "source": "stored"}
    table = on_store(served, "admin", "limits", "gwen", "records=4")
    assert "requests_per_s" not in table and "records" in table and "4" in table
    assert "the defaults are in force" in on_store(served, "admin", "limits", "gwen", "--delete")
    for wrong, said in (("record=1", "records"), ("records=many", "no number"), ("records", "NAME=VALUE")):
        output = on_store(served, "admin", "limits", "gwen", wrong, fails=True)
        assert said in output and "Traceback" not in output, output
    assert "not both" in on_store(served, "admin", "limits", "gwen", "records=1", "--delete", fails=True)
    entries = [json.loads(line) for line in on_store(served, "audit", "--user", "gwen", "--json").splitlines()]
    assert [(entry["action"], entry.get("via", "service")) for entry in entries if entry["outcome"] == "done"] == [
        ("set-limits", "service"),
        ("set-limits", "command line"),
        ("delete-limits", "command line"),
    ]


def test_what_is_wrong_is_one_sentence(served: Service, tmp_path: Path) -> None:
    """A wrong token, no service, no token file, an operation that needs one: exit code and sentence, no traceback."""
    for said, output in (
        ("unauthenticated", cli(served, "admin", "pool", key="wrong", fails=True)),
        ("--service URL", on_store(served, "admin", "pool", fails=True)),
        ("user-not-found", cli(served, "admin", "compact", "nobody", fails=True)),
        ("not valid", cli(served, "admin", "evict", "..", fails=True).replace("may not be", "not valid")),
    ):
        assert said in output and "Traceback" not in output, output
    missing = run_here("admin", "pool", "--service", served.url, "--token-file", str(tmp_path / "none"))
    assert missing.exit_code == 2 and "token file" in missing.stderr
    nobody = run_cli("admin", "pool", "--service", "http://127.0.0.1:9", timeout_s=60)
    assert nobody.returncode == 1 and "does not answer" in nobody.stderr and "Traceback" not in nobody.stderr
    (tmp_path / "token").write_text(ADMIN_KEY + "\n")
    assert run_here("admin", "pool", "--service", served.url, "--token-file", str(tmp_path / "token")).exit_code == 0
    assert ADMIN_KEY not in served.errors


def test_a_vectorstore_goes_out_and_in(served: Service, tmp_path: Path) -> None:
    """Larger than the largest body, by a service and by a bucket, and each into a user who had none."""
    fill(served, "carol", 200)
    cli(served, "admin", "export", "carol", str(tmp_path / "a.tar"))
    assert (tmp_path / "a.tar").stat().st_size > 100_000
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert "chroma.sqlite3" in archive.getnames()
    cli(served, "admin", "import", str(tmp_path / "a.tar"), "carol-2")
    assert count(served, "carol-2") == 200
    on_store(served, "admin", "export", "carol-2", str(tmp_path / "b.tar"))
    on_store(served, "admin", "import", str(tmp_path / "b.tar"), "carol-3")
    assert count(served, "carol-3") == 200
    assert "vectorstore-exists" in cli(served, "admin", "import", str(tmp_path / "b.tar"), "carol-3", fails=True)
    half = (tmp_path / "a.tar").read_bytes()[:60_000]
    (tmp_path / "half.tar").write_bytes(half)
    assert "breaks off" in cli(served, "admin", "import", str(tmp_path / "half.tar"), "carol-4", fails=True)
    assert "breaks off" in on_store(served, "admin", "import", str(tmp_path / "half.tar"), "carol-4", fails=True)
    served.problem("GET", "/users/carol-4/collections/notes", "user-not-found")
    assert "is there already" in cli(served, "admin", "export", "carol", str(tmp_path / "a.tar"), fails=True)
    cli(served, "admin", "export", "nobody", str(tmp_path / "none.tar"), fails=True)
    assert not (tmp_path / "none.tar").exists()


def _link(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return out.getvalue()


def test_a_hostile_archive_imports_nothing(served: Service) -> None:
    """A link, a path that leads out, a directory that is none of Chroma's; chunked or with a length."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"))
    database = io.BytesIO()
    with tarfile.open(fileobj=database, mode="w") as archive:
        info = tarfile.TarInfo("chroma.sqlite3")
        info.size = 4096
        archive.addfile(info, io.BytesIO(b"no database".ljust(4096, b"\0")))
    for body in (_link("chroma.sqlite3"), _link("../../x"), out.getvalue(), database.getvalue(), b"", b"x" * 2000):
        for content in (body, iter([body])):
            served.problem("PUT", "/admin/users/mallory/import", "invalid-request", headers=ADMIN, content=content)
    served.problem("GET", "/users/mallory/collections/notes", "user-not-found")
    scratch = served.replica_dir / "scratch"
    assert not scratch.is_dir() or not list(scratch.iterdir())


def test_a_reader_that_stalls_is_disconnected(served: Service) -> None:
    """It holds no slot meanwhile, and its directory is removed."""
    fill(served, "dave", 1000)
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = (
            f"GET /admin/users/dave/export HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n"
        )
        stalled.sendall(request.encode())
        assert stalled.recv(100).startswith(b"HTTP/1.1 200")
        assert "cold" in cli(served, "admin", "evict", "dave")
        scratch, deadline_s = served.replica_dir / "scratch", time.monotonic() + 60
        while list(scratch.iterdir()):
            assert time.monotonic() < deadline_s, "the directory of the export stays"
            time.sleep(0.1)


def test_a_deletion_by_the_command_line_is_complete(served: Service) -> None:
    """It leaves what is other programs', says so, and needs a yes."""
    fill(served, "erin")
    for path in ("avatars/7/adapters/a.bin", "avatars/7/vectorstore_data/b.txt", "image/c.png"):
        file = Path(served.store) / "users" / "erin" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("theirs")
    assert "Aborted" in cli(served, "admin", "delete", "erin", fails=True)
    told = cli(served, "admin", "delete", "erin", "--yes")
    assert "1 documents" in told and "image/, avatars/7/adapters/" in told and "not yet" not in told
    assert json.loads(on_store(served, "admin", "deletion", "erin", "--json"))["complete_at_ms"]
    served.problem("GET", "/users/erin/collections/notes", "user-not-found")
    again = json.loads(on_store(served, "admin", "delete", "erin", "--yes", "--json"))
    assert again == json.loads(cli(served, "admin", "deletion", "erin", "--json"))
    assert (Path(served.store) / "users/erin/image/c.png").exists()
    assert "deleted, verified empty" in cli(served, "admin", "users")


def test_what_was_done_is_in_the_audit(served: Service) -> None:
    """Deletions, restores, forks, tokens and revocations, of the service and of the command line, with who did them."""
    fill(served, "frank")
    served.ok("POST", "/users/frank/restore", json={"commit": 1}, headers={"X-Request-Id": "of-frank"})
    served.ok("POST", "/users/frank/fork", json={"user_id": "frank-2"})
    served.ok("POST", "/admin/tokens/revoke", headers=ADMIN, json={"token_id": "some-id"})
    on_store(served, "fork", "frank", "frank-3")
    served.ok("POST", "/api/v2/tenants/frank/databases", json={"name": "avatar-9"})
    served.ok("DELETE", "/api/v2/tenants/frank/databases/avatar-9")
    served.ok("DELETE", "/users/frank")
    entries = [json.loads(line) for line in cli(served, "audit", "--user", "frank", "--json").splitlines()]
    did = [(entry["action"], entry["outcome"], entry.get("via", "service")) for entry in entries]
    assert did == [
        *(("restore", outcome, "service") for outcome in ("begun", "done")),
        *(("fork", outcome, "service") for outcome in ("begun", "done")),
        *(("fork", outcome, "command line") for outcome in ("begun", "done")),
        *(("delete-database", outcome, "service") for outcome in ("begun", "done")),
        *(("delete", outcome, "service") for outcome in ("begun", "done")),
    ]
    assert entries[0]["request_id"] == "of-frank" and entries[0]["caller"] == "token"
    everything = on_store(served, "audit", "--json")
    actions = {json.loads(line)["action"] for line in everything.splitlines()}
    assert {"mint-token", "revoke-token", "delete", "fork"} <= actions
    assert SECRET not in everything and ADMIN_KEY not in everything and "eyJ" not in everything


def test_top_prints_one_frame(served: Service) -> None:
    """Without a terminal and without colours, in a narrow one too; users are shown by a hash."""
    fill(served, "grace")
    for columns in ("60", "140"):
        env = {"VECTORPOOL_TOKEN": ADMIN_KEY, "NO_COLOR": "1", "COLUMNS": columns}
        done = run_here("top", "--service", served.url, "--once", "--every", "0.5", **env)
        assert done.exit_code == 0, done.output
        assert "\x1b" not in done.stdout and "grace" not in done.stdout
        for word in ("ready", "requests", "store", "shards", "busiest users", "native"):
            assert word in done.stdout, word
        assert max(map(len, done.stdout.splitlines())) <= int(columns)
    done = run_here("top", "--service", served.url, "--once", VECTORPOOL_TOKEN="wrong")
    assert done.exit_code == 1 and "Traceback" not in done.stderr


def test_readiness_in_both_forms(tmp_path: Path) -> None:
    """Open it is one word. Behind a token it has the reasons: a shard that is frozen and killed, then ready again."""
    running = Service(tmp_path, "--shards", "1", env={"VECTORPOOL_ADMIN_KEY": ADMIN_KEY}).start()
    try:
        assert running.ok("GET", "/health/ready").json() == {"status": "ready"}
        running.problem("GET", "/admin/ready", "unauthenticated")
        told = running.ok("GET", "/admin/ready", headers=ADMIN).json()
        assert (told["status"], told["reasons"], told["store"]) == ("ready", [], "answers")
        os.kill(shard_ids(running.pid)[0], 9)
        seen: set[str] = set()
        reasons: list[Any] = []
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            answer = running.request("GET", "/admin/ready", headers=ADMIN).json()
            seen.add(answer["status"])
            reasons += answer["reasons"]
            if "starting" in seen and answer["status"] == "ready":
                break
        assert seen >= {"starting", "ready"} and "Shard 0 is starting." in reasons
    finally:
        running.close()
