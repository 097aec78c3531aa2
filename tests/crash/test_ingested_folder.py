"""A folder of several hundred real files of all kinds, ingested over S3 while its workers are killed twenty times.

Every document is there exactly once, without a duplicate and without an orphan; and of a question for each document
that was made for it, the right document is among the first three answers.
"""

from __future__ import annotations

import random
import sysconfig
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.test_jobs import Worker, begun, kill_worker_of, worker_of
from tests.support import document_files
from tests.support.postgres import Postgres
from tests.support.service import Service
from tests.support.store import S3Server

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]
USER, HOME = "42", "/users/42/avatars/7"
KILLS, END_S = 20, 1500
PLACES = "Arlon Bergen Cordova Drammen Evora Fulda Girona Hasselt Imola Jena Kalmar Lugano Mostar Novara".split()  # noqa: SIM905 - a word a name reads better
THINGS = "ferry museum bakery library observatory tannery lighthouse orchard foundry brewery archive theatre".split()  # noqa: SIM905 - a word a name reads better
# Installed packages have these; of each kind as many as there are, at most so many.
SUFFIXES = tuple(".py .md .txt .rst .html .json .csv .xml .yaml .pyi .c .h .js .ipynb".split())  # noqa: SIM905 - as above
_OF_A_KIND, _LARGEST = 25, 6_000


def installed() -> dict[str, bytes]:
    """Return documents of the installed packages, by path."""
    root, found = Path(sysconfig.get_paths()["purelib"]), dict[str, bytes]()
    counts = dict.fromkeys(SUFFIXES, 0)
    for path in sorted(root.rglob("*")):
        kind = path.suffix.lower()
        if counts.get(kind, _OF_A_KIND) >= _OF_A_KIND or not path.is_file() or not 200 < path.stat().st_size < _LARGEST:
            continue
        data = path.read_bytes()
        # Every third of a kind: neighbours are alike.
        if zlib.crc32(path.name.encode()) % 3 or b"\0" in data:
            continue
        counts[kind] += 1
        found[f"installed/{path.relative_to(root)}"] = data
    return found


def made() -> tuple[dict[str, bytes], dict[str, str]]:
    """Return a document of each kind for each of many facts, and the question of each, by path."""
    files, questions = dict[str, bytes](), dict[str, str]()
    kinds, dice = sorted(document_files.GOOD), random.Random(7)
    before = document_files.FACT
    try:
        for number, (place, thing) in enumerate((p, t) for p in PLACES for t in THINGS):
            kind = kinds[number % len(kinds)]
            if kind in ("a.html", "a.xml"):
                # Made when the module was loaded.
                kind = "a.md"
            document_files.FACT = (
                f"The {thing} of {place} opened in {dice.randrange(1500, 1990)} and has {number} rooms."
            )
            path = f"made/{place}/{thing}{kind.removeprefix('a')}"
            files[path] = document_files.GOOD[kind]()
            questions[path] = f"When did the {thing} of {place} open?"
    finally:
        document_files.FACT = before
    return files, questions


@pytest.fixture(params=["sqlite", "postgresql with two workers"])
def service(
    request: pytest.FixtureRequest, tmp_path: Path, radosgw_server: S3Server
) -> Iterator[tuple[Service, list[Worker], str]]:
    store = f"s3://{radosgw_server.make_bucket()}/folder"
    env, url = radosgw_server.environ(store), ""
    if request.param != "sqlite":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.url
        env |= {"VECTORPOOL_JOBS_URL": url, "VECTORPOOL_JOBS_AT_ONCE": "0"}
    made = Service(tmp_path, "--shards", "1", store=store, env=env).start()
    workers: list[Worker] = []
    yield made, workers, url
    for worker in workers:
        worker.close()
    made.close()


def test_every_document_is_there_once_and_is_found(service: tuple[Service, list[Worker], str]) -> None:
    """Whatever dies; see the module."""
    served, workers, url = service
    files, questions = made()
    files |= installed()
    if url:
        # Two workers are so quick that twenty kills need more documents.
        texts = {
            path: data for path, data in files.items() if path.endswith((".py", ".md", ".txt", ".rst", ".h", ".c"))
        }
        for copy in range(1, 5):
            files |= {f"copy{copy}/{path}": data + b"\n\nCopy %d.\n" % copy for path, data in texts.items()}
    assert len(files) > 300
    for path, data in files.items():
        served.ok("PUT", f"{HOME}/documents/{path}", content=data)
    job_id, began = begun(served), time.monotonic()
    if url:
        workers += [Worker(served, url), Worker(served, url)]
    dice, kills, last = random.Random(3), 0, -1
    while True:
        shown = served.client.get(f"/users/{USER}/jobs/{job_id}?limit=1")
        if shown.status_code == 200:
            job = shown.json()
            if job["state"] not in ("queued", "running"):
                break
            # After some documents each time, so that the kills are spread over the whole job.
            counts = job["counts"]
            done = sum(counts.get(name, 0) for name in ("ingested", "unchanged", "failed"))
            if kills < KILLS and done > last and done >= (kills + 0.5) * len(files) / (KILLS + 1):
                last, kills = done, kills + 1
                if url:
                    workers.pop(dice.randrange(len(workers))).close()
                    workers.append(Worker(served, url))
                elif worker_of(served) is not None:
                    kill_worker_of(served)
        assert time.monotonic() - began < END_S, shown.text
        time.sleep(0.1)
    print(f"{len(files)} files, {kills} kills, {time.monotonic() - began:.0f} s: {job}")
    assert kills >= KILLS - 1
    job = served.ok("GET", f"/users/{USER}/jobs/{job_id}?limit=1000").json()
    assert job["state"] == "done", job
    failed = {each["path"]: each for each in job["documents"] if each["status"] == "failed"}
    assert not set(failed) & set(questions), failed
    # Of what packages have, some is no document: empty text, for example. Each says why.
    assert len(failed) < len(files) / 20 and all(each["code"] for each in failed.values()), failed
    check_records(served, set(files) - set(failed))
    hits = sum(path in first_three(served, question) for path, question in questions.items())
    print(f"{hits} of {len(questions)} questions have the right document in the first three")
    assert hits >= 0.95 * len(questions)


def check_records(served: Service, paths: set[str]) -> None:
    """Each document has its chunks, numbered without a gap, each once; nothing else is there."""
    numbers: dict[str, list[int]] = {}
    offset = 0
    while True:
        body = {"limit": 1000, "offset": offset, "include": ["metadatas"]}
        page = served.ok("POST", f"{HOME}/collections/documents/records/get", json=body).json()["records"]
        for record in page:
            numbers.setdefault(record["metadata"]["path"], []).append(record["metadata"]["chunk"])
        offset += len(page)
        if len(page) < 1000:
            break
    assert set(numbers) == paths
    assert all(sorted(found) == list(range(len(found))) for found in numbers.values())
    # The tests' files are too small for parts, so a commit holds whole documents.
    commits = served.ok("GET", f"/users/{USER}/commits?limit=1000").json()["commits"]
    assert len(commits) <= len(paths)
    assert sum(each["added"] for each in commits) == offset, "a record was written twice"


def first_three(served: Service, question: str) -> set[str]:
    body = {"text": question, "n_results": 3}
    return {each["path"] for each in served.ok("POST", f"{HOME}/query", json=body).json()["results"][0]}
