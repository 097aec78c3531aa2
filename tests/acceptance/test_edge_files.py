"""Local files of a real server: modes whatever the umask, secrets that no list of processes shows, the tokens file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.start import shards_of
from tests.support.service import Service, run_cli


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A umask that takes nothing away, for the processes that a test starts."""
    former = os.umask(0)
    yield
    os.umask(former)


def _modes(root: Path) -> dict[Path, int]:
    return {path: stat.S_IMODE(path.lstat().st_mode) for path in (root, *root.rglob("*"))}


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("shards", ["1", "-1"])
def test_replicas_are_this_accounts_alone(tmp_path: Path, shards: str) -> None:
    """Files are 0600 and directories 0700 whatever the umask; a directory store has the modes of the umask."""
    service = Service(tmp_path, "--shards", shards)
    # An earlier version left its caches open.
    warm = service.replica_dir / "warm"
    warm.mkdir(parents=True)
    service.replica_dir.chmod(0o700)
    service.start()
    try:
        service.ok("POST", "/users/42/collections", json={"name": "notes"})
        records = [{"id": str(n), "embedding": [1, n], "document": "a text"} for n in range(50)]
        service.ok("PUT", "/users/42/collections/notes/records", json={"records": records})
        service.ok("PUT", "/users/42/avatars/7/documents/a.txt", content=b"a text")
        modes = _modes(service.replica_dir)
        assert any(path.name == "chroma.sqlite3" for path in modes)
        for path, mode in modes.items():
            assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))
        for path, mode in _modes(Path(service.store) / "users").items():
            assert mode == (0o777 if path.is_dir() else 0o666), (path, oct(mode))
        scrubbed = run_cli("scrub", "42", "--store", service.store, "--replica-dir", str(service.replica_dir))
        assert scrubbed.returncode == 0, scrubbed.stderr
    finally:
        service.close()
    for path, mode in _modes(service.replica_dir).items():
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def test_no_list_of_processes_shows_a_secret(tmp_path: Path) -> None:
    """A flag for a secret takes a file; a secret itself is no argument of any process."""
    secret = "hunter2-of-the-store"
    (tmp_path / "secret").write_text(f"{secret}\n")
    flags = ["--s3-secret-access-key-file", str(tmp_path / "secret"), "--shards", "1"]
    service = Service(tmp_path, *flags, env={"VECTORPOOL_OPENAI_API_KEY": "hunter2-of-the-provider"}).start()
    try:
        processes = [service.pid, *shards_of(service.pid)]
        assert len(processes) > 1
        for process in processes:
            assert b"hunter2" not in Path(f"/proc/{process}/cmdline").read_bytes()
    finally:
        service.close()
    assert "hunter2" not in service.errors + "".join(service.output)
    for flag in ("--s3-secret-access-key", "--openai-api-key", "--token-secret", "--admin-key"):
        refused = run_cli("serve", f"{flag}={secret}", "--port", "0", cwd=tmp_path)
        assert refused.returncode == 2 and f"{flag}-file" in refused.stderr and secret not in refused.stderr


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read"), (b"", "empty"), (b"\xff\xfe", "not UTF-8")])
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    """One sentence says which flag, and what to do."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    refused = run_cli("serve", "--openai-api-key-file", str(file), "--port", "0", cwd=tmp_path)
    (sentence,) = refused.stderr.strip().splitlines()
    assert refused.returncode == 2 and said in sentence and "--openai-api-key-file" in sentence


@pytest.mark.parametrize(
    ("file_mode", "directory_mode", "is_refused"),
    [
        (0o600, 0o700, False),
        (0o644, 0o755, False),
        (0o664, 0o775, False),
        (0o602, 0o755, True),
        (0o666, 0o755, True),
        (0o644, 0o777, True),
        (0o644, 0o1777, False),
    ],
)
def test_a_tokens_file_that_others_may_write_is_refused(
    tmp_path: Path, file_mode: int, directory_mode: int, is_refused: bool
) -> None:
    """At the start, with a sentence that says what to take away; the group of this account is no other."""
    folder = tmp_path / "etc"
    folder.mkdir()
    file = folder / "tokens.toml"
    file.write_text(run_cli("token", "backend", "--every-user").stdout)
    file.chmod(file_mode)
    folder.chmod(directory_mode)
    if is_refused:
        refused = run_cli("serve", "--tokens-file", str(file), "--port", "0", cwd=tmp_path)
        (sentence,) = refused.stderr.strip().splitlines()
        assert refused.returncode == 2 and "chmod" in sentence and str(file) in sentence
        assert not (tmp_path / ".vectorpool").exists()
        return
    service = Service(tmp_path, "--tokens-file", str(file), "--shards", "1").start()
    service.close()
