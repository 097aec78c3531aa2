"""The image, built from this checkout and run as platforms run it: without rights, on a root that cannot be written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.minio import docker_runs
from tests.support.service import NAMED

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

# Above the base image, as it lies on disk.
MAX_SLIM_MB = 450
START_S = 120.0
STOP_S = 30


def docker(*arguments: str, check: bool = True) -> str:
    """Run a command of Docker's; return what it prints."""
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert not check or ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.strip()


@pytest.fixture(scope="session")
def base() -> str:
    """Return the base image: the Dockerfile's if it can be pulled, else one of Debian's packages."""
    if not shutil.which("docker") or (reason := docker_runs()):
        pytest.skip(f"no container runs here: {reason if shutil.which('docker') else 'docker is not installed'}")
    named = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert named is not None
    if docker("pull", "--quiet", named[1], check=False):
        return named[1]
    name = os.environ.get("VECTORPOOL_TEST_BASE", "vectorpool-base")
    if not docker("images", "--quiet", name):
        if not shutil.which("debootstrap"):
            pytest.skip("no base image: it cannot be pulled, and debootstrap is not installed")
        subprocess.run([str(Path(__file__).with_name("base-image")), name], check=True)
    return name


@pytest.fixture(scope="session", params=["slim", "full"])
def image(request: pytest.FixtureRequest, base: str) -> str:
    """Return an image of this checkout."""
    name = f"vectorpool-test:{request.param}"
    docker("build", "--network", "host", "--build-arg", f"BASE={base}", "--target", request.param, "-t", name, ".")
    return name


def megabytes(image: str) -> float:
    """Return the size of an image."""
    return float(docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


@contextmanager
def container(image: str, *flags: str) -> Iterator[tuple[str, httpx.Client]]:
    """Run an image as a platform does; give its name, and a client of its port 9000 once it is ready."""
    limits = ("--read-only", "--tmpfs", "/tmp:size=512m", "--memory", "2g", "--cpus", "2", "--cap-drop", "ALL")
    places = ("-p", "127.0.0.1::9000", "-e", "PORT=9000", "-e", "VECTORPOOL_INSECURE_OPEN=true")
    name = docker("run", "-d", *limits, *places, *flags, image)
    try:
        port = docker("port", name, "9000").splitlines()[0].rpartition(":")[2]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=NAMED) as client:
            wait_until_ready(name, client)
            yield name, client
    finally:
        docker("rm", "-f", name)


def wait_until_ready(name: str, client: httpx.Client) -> None:
    """Wait for the service; fail with what it printed."""
    until = time.monotonic() + START_S
    while True:
        try:
            if client.get("/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, docker("logs", name)
        time.sleep(0.1)


def test_it_serves_without_rights_on_a_root_that_cannot_be_written(image: str) -> None:
    """Both protocols work; it listens where PORT says; it becomes healthy; it ends on SIGTERM."""
    with container(image) as (name, client):
        text = b"# Prices\n\nA night costs 31 crowns."
        assert client.put("/users/42/avatars/7/documents/hut.md", content=text).status_code == 201
        assert client.post("/users/42/avatars/7/ingest").is_success
        found = client.post("/users/42/avatars/7/query", json={"text": "What does a night cost?"}).json()
        assert "31 crowns" in found["results"][0][0]["text"]
        assert client.get("/api/v2/tenants/42/databases/avatar-7/collections_count").json() == 1
        state = json.loads(docker("inspect", name))[0]
        assert state["Config"]["User"] == "10001"
        until = time.monotonic() + START_S
        while docker("inspect", "--format", "{{.State.Health.Status}}", name) != "healthy":
            assert time.monotonic() < until, docker("inspect", "--format", "{{json .State.Health}}", name)
            time.sleep(0.5)
        docker("stop", "-t", str(STOP_S), name)
        assert docker("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", name) == "0 false"


def test_the_init_reaps(image: str) -> None:
    """A process whose parent is gone leaves no zombie."""
    orphan = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(0.2)'])"
    count = "sum(open(path).read().rpartition(')')[2].split()[0] == 'Z' for path in glob.glob('/proc/[0-9]*/stat'))"
    states = f"import glob; print({count})"
    with container(image) as (name, _):
        docker("exec", name, "python", "-c", orphan)
        time.sleep(1.0)
        assert docker("exec", name, "python", "-c", states) == "0"


def test_the_slim_image_is_small(base: str, image: str) -> None:
    """What chromadb asks for and nothing imports is left out of it."""
    if image.endswith(":slim"):
        assert megabytes(image) - megabytes(base) <= MAX_SLIM_MB
    else:
        assert megabytes(image) > megabytes(base)
