"""The image, built from this checkout and run as platforms run it: without rights, on a root that cannot be written."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.containers.docker import START_S, docker, is_ready, megabytes, state, wait_until
from tests.support import document_files
from tests.support.service import NAMED

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

# Above the base image, as it lies on disk.
MAX_SLIM_MB = 450
STOP_S = 30
HUT = b"# Prices\n\nA night costs 31 crowns."
AS_WORKER = "VECTORPOOL_JOBS_URL=postgresql://nobody@127.0.0.1/none VECTORPOOL_SERVICE_URL=http://127.0.0.1:9000"


@pytest.fixture(scope="session", params=["slim", "full"])
def image(request: pytest.FixtureRequest) -> str:
    """Return an image of this checkout."""
    return request.getfixturevalue(f"{request.param}_image")


@contextmanager
def container(image: str, *flags: str) -> Iterator[tuple[str, httpx.Client]]:
    """Run an image as a platform does; give its name, and a client of its port 9000 once it is ready."""
    limits = ("--read-only", "--tmpfs", "/tmp:size=512m", "--memory", "2g", "--cpus", "2", "--cap-drop", "ALL")
    places = ("-p", "127.0.0.1::9000", "-e", "PORT=9000", "-e", "VECTORPOOL_INSECURE_OPEN=true")
    name = docker("run", "-d", *limits, *places, *flags, image)
    try:
        port = docker("port", name, "9000").splitlines()[0].rpartition(":")[2]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=NAMED) as client:
            wait_until(lambda: is_ready(client), lambda: docker("logs", name))
            yield name, client
    finally:
        docker("rm", "-f", name)


def test_it_serves_without_rights_on_a_root_that_cannot_be_written(image: str) -> None:
    """Both protocols work; it listens where PORT says; it becomes healthy; it ends on SIGTERM."""
    with container(image) as (name, client):
        records = [{"id": "n1", "document": "A night costs 31 crowns."}, {"id": "n2", "document": "Bring a lamp."}]
        home = "/users/42/avatars/7/collections"
        assert client.post(home, json={"name": "notes"}).status_code == 201
        assert client.post(f"{home}/notes/records", json={"records": records}).is_success
        found = client.post(f"{home}/notes/query", json={"texts": ["What does a night cost?"], "n_results": 1}).json()
        assert found["results"][0][0]["id"] == "n1"
        assert client.get("/api/v2/tenants/42/databases/avatar-7/collections_count").json() == 1
        assert state(name, ".Config.User") == "10001"
        wait_until(
            lambda: state(name, ".State.Health.Status") == "healthy", lambda: state(name, "json .State.Health"), START_S
        )
        docker("stop", "-t", str(STOP_S), name)
        assert (state(name, ".State.ExitCode"), state(name, ".State.OOMKilled")) == ("0", "false")


def test_the_init_reaps(image: str) -> None:
    """A process whose parent is gone leaves no zombie."""
    orphan = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(0.2)'])"
    count = "sum(open(path).read().rpartition(')')[2].split()[0] == 'Z' for path in glob.glob('/proc/[0-9]*/stat'))"
    states = f"import glob; print({count})"
    with container(image) as (name, _):
        docker("exec", name, "python", "-c", orphan)
        time.sleep(1.0)
        assert docker("exec", name, "python", "-c", states) == "0"


def test_the_slim_image_is_small(base: str, slim_image: str) -> None:
    """What chromadb asks for and nothing imports is left out of it."""
    assert megabytes(slim_image) - megabytes(base) <= MAX_SLIM_MB


def test_the_full_image_reads_documents_and_can_send_traces(full_image: str) -> None:
    """A Word file is read in a process without rights, also in a container; the exporter of traces is there."""
    collector = "http://127.0.0.1:4318/v1/traces"
    with container(full_image, "-e", f"VECTORPOOL_TRACES_ENDPOINT={collector}") as (_, client):
        for name, content in (("pump.docx", document_files.word()), ("hut.md", HUT)):
            assert client.put(f"/users/42/avatars/7/documents/{name}", content=content).status_code == 201
        answer = client.post("/users/42/avatars/7/ingest?wait_s=60")
        assert answer.is_success, answer.text
        found = client.post("/users/42/avatars/7/query", json={"text": "How long is the warranty?"}).json()
        assert document_files.FACT in json.dumps(found)
        found = client.post("/users/42/avatars/7/query", json={"text": "What does a night cost?"}).json()
        assert "31 crowns" in found["results"][0][0]["text"]


def test_the_slim_image_says_what_it_lacks(slim_image: str) -> None:
    """It has no jobs and reads no Word file, by name. The command line ingests a folder of text without a job."""
    with container(slim_image) as (name, client):
        assert client.put("/users/42/avatars/7/documents/hut.md", content=HUT).status_code == 201
        for answer in (client.post("/users/42/avatars/7/ingest"), client.get("/users/42/jobs")):
            assert (answer.status_code, answer.json()["code"]) == (501, "jobs-not-installed")
            assert "full image" in answer.json()["detail"] and "Retry-After" not in answer.headers
        mixed = base64.b64encode(document_files.word()).decode()
        write = f"mkdir /tmp/in; echo '{HUT.decode()}' >/tmp/in/hut.md; echo {mixed} | base64 -d >/tmp/in/pump.docx"
        docker("exec", name, "sh", "-c", write)
        ingest = "COLUMNS=500 vectorpool ingest /tmp/in --user 42 --avatar 7 2>&1 || true"
        told = docker("exec", name, "sh", "-c", ingest)
        assert "the full image" in told and "1 failed" in told, told
        found = client.post("/users/42/avatars/7/query", json={"text": "What does a night cost?"}).json()
        assert "31 crowns" in found["results"][0][0]["text"]
        refused = docker("exec", name, "sh", "-c", f"COLUMNS=500 {AS_WORKER} vectorpool worker 2>&1 || true")
        assert "full image" in refused, refused
        export = "COLUMNS=500 vectorpool export 42 postgresql://nobody@127.0.0.1/none 2>&1 || true"
        assert "full image" in docker("exec", name, "sh", "-c", export)


def test_the_slim_image_finds_credentials(slim_image: str) -> None:
    """It keeps what botocore knows of the services that S3 and its credentials need."""
    clients = (
        "import boto3; [boto3.client(each, region_name='eu-north-1') for each in ('s3', 'sts', 'sso', 'sso-oidc')]"
    )
    docker("run", "--rm", "--entrypoint", "python", slim_image, "-c", clients)
