"""``vectorpool ingest FOLDER``: alone over the store and through a service, mirrored, with links and bad files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.document_files import FACT, GOOD, pdf
from tests.support.service import Service, run_cli

TOKEN = "of-the-folder-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("service")
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens = home / "tokens.toml"
    tokens.write_text(f'[tokens.all]\nsha256 = "{digest}"\nusers = "*"\nadmin = true\n')
    served = Service(home, "--shards", "1", "--tokens-file", str(tokens)).start()
    yield served
    served.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with documents, hidden files, links within and without, and a pipe."""
    root = tmp_path / "docs"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "a.md").write_text(f"# Warranty\n\n{FACT}\n")
    (root / "deep" / "er" / "ümlaut #1.pdf").write_bytes(pdf())
    (root / "deep" / "b.csv").write_bytes(GOOD["a.csv"]())
    (root / ".hidden").write_text("hidden")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("hidden")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (root / "link-in.md").symlink_to("a.md")
    (root / "link-out.txt").symlink_to(outside / "secret.txt")
    (root / "folder-out").symlink_to(outside)
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.txt")
    return root


WANTED = ["a.md", "deep/b.csv", "deep/er/ümlaut #1.pdf", "link-in.md"]


def paths(service: Service, user: str) -> list[str]:
    return [
        d["path"] for d in service.ok("GET", f"/users/{user}/avatars/7/documents", headers=BEARER).json()["documents"]
    ]


def test_a_folder_is_mirrored_through_a_service(service: Service, user: str, folder: Path, tmp_path: Path) -> None:
    """Uploads what changed, removes what was removed, follows no link out, and fails by its exit code alone."""
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    arguments = ("ingest", str(folder), "--user", user, "--avatar", "7", "--service", service.url)
    first = run_cli(*arguments, "--token-file", str(token))
    assert first.returncode == 0, first.stderr
    assert "4 ingested" in first.stdout and "0 failed" in first.stdout
    assert "link-out.txt: passed over" in first.stderr and "secret" not in first.stdout + first.stderr
    assert paths(service, user) == WANTED
    again = run_cli(*arguments, env={"VECTORPOOL_TOKEN": TOKEN})
    assert "0 ingested (0 chunks), 4 unchanged" in again.stdout and again.returncode == 0
    (folder / "a.md").unlink()
    (folder / "link-in.md").unlink()
    (folder / "cut.pdf").write_bytes(pdf()[:300])
    kept = run_cli(*arguments, env={"VECTORPOOL_TOKEN": TOKEN})
    assert kept.returncode == 1 and "cut.pdf: " in kept.stderr and "1 failed" in kept.stdout
    assert paths(service, user) == ["a.md", "cut.pdf", *WANTED[1:]]
    mirrored = run_cli(*arguments, "--mirror", env={"VECTORPOOL_TOKEN": TOKEN})
    assert mirrored.returncode == 1 and "2 removed" in mirrored.stdout, mirrored.stderr
    assert paths(service, user) == ["cut.pdf", *WANTED[1:3]]
    question = {"text": FACT, "n_results": 20}
    passages = service.ok("POST", f"/users/{user}/avatars/7/query", json=question, headers=BEARER).json()["results"][0]
    assert {passage["path"] for passage in passages} == set(WANTED[1:3])


def test_a_service_that_refuses_or_is_not_there_is_one_sentence(
    service: Service, user: str, folder: Path, tmp_path: Path
) -> None:
    """A wrong token, none, an empty file of one, another kind of URL: no traceback, no token in the output."""
    arguments = ("ingest", str(folder), "--user", user, "--avatar", "7")
    for more, env, says in (
        (("--service", service.url), {}, "token"),
        (("--service", service.url), {"VECTORPOOL_TOKEN": "wrong-token"}, "token"),
        (("--service", "ftp://host"), {}, "is not the URL of a service"),
        (("--service", service.url, "--token-file", str(folder / "none")), {}, "cannot be read"),
        (("--token-file", str(folder / "a.md")), {}, "A token is for a service"),
    ):
        refused = run_cli(*arguments, *more, env=env)
        assert refused.returncode in (1, 2) and says in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr and "wrong-token" not in refused.stderr


def test_a_folder_is_mirrored_alone(user: str, folder: Path, tmp_path: Path) -> None:
    """The same without a service, over a store of its own, with a question at the end."""
    store = str(tmp_path / "store")
    arguments = ("ingest", str(folder), "--user", user, "--avatar", "7", "--store", store)
    first = run_cli(*arguments)
    assert first.returncode == 0 and "4 ingested" in first.stdout, first.stderr
    (folder / "a.md").unlink()
    (folder / "link-in.md").unlink()
    mirrored = run_cli(*arguments, "--mirror")
    assert mirrored.returncode == 0 and "2 unchanged, 2 removed" in mirrored.stdout, mirrored.stderr
    answer = run_cli("query", FACT, "--user", user, "--avatar", "7", "--store", store)
    assert "ümlaut #1.pdf" in answer.stdout and "a.md" not in answer.stdout
