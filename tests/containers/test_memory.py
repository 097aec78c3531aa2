"""The settings of the Cloud Run services hold in their memory, files of /tmp included."""

from __future__ import annotations

import base64
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from tests.containers.docker import ROOT, docker, is_ready, state, wait_until
from tests.support import document_files
from tests.support.service import NAMED

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

SERVICES = {2: "service-gcs", 4: "service-s3"}
# Twice what all files may take in the smaller service, and more users than may be open.
USERS, RECORDS, DIMENSION = 160, 2000, 384
MIB = 1024**2


def environment_of(service: str) -> dict[str, str]:
    """Return a service's variables, but for where it stores and who may call it."""
    text = (ROOT / "deploy" / "cloudrun" / f"{service}.yaml").read_text()
    env = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"][0]["env"]
    found = {each["name"]: each["value"] for each in env if "value" in each}
    return {
        name: value
        for name, value in found.items()
        if not re.search(r"_(STORE|REGION|TOKEN_SECRET_FILE|TRUSTED_PROXIES)$", name)
    }


@contextmanager
def instance(image: str, gib: int) -> Iterator[tuple[str, httpx.Client]]:
    """Run the image as Cloud Run does, with a directory on a volume as its store; give its name and a client."""
    env = {**environment_of(SERVICES[gib]), "VECTORPOOL_STORE": "/store/objects", "VECTORPOOL_INSECURE_OPEN": "true"}
    flags = [part for name, value in env.items() for part in ("-e", f"{name}={value}")]
    limits = ("--read-only", "--tmpfs", "/tmp", "--memory", f"{gib}g", "--memory-swap", f"{gib}g", "--cpus", "2")
    volume = docker("volume", "create")
    docker("run", "--rm", "-u", "0", "-v", f"{volume}:/store", "--entrypoint", "chmod", image, "777", "/store")
    name = docker("run", "-d", *limits, "-v", f"{volume}:/store", "-p", "127.0.0.1::8000", *flags, image)
    try:
        port = docker("port", name, "8000").splitlines()[0].rpartition(":")[2]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=NAMED) as client:
            wait_until(lambda: is_ready(client), lambda: docker("logs", name))
            yield name, client
    finally:
        docker("rm", "-f", "-v", name)
        docker("volume", "rm", volume)


def until_done(client: httpx.Client, told: Counter[str], method: str, path: str, body: object) -> httpx.Response:
    """Send a request, again while it is refused for want of memory or room; return the answer."""
    answers: list[httpx.Response] = []

    def done() -> bool:
        answers.append(client.request(method, path, json=body))
        if answers[-1].status_code in (429, 503):
            told[answers[-1].text[:200].partition('"code":"')[2][:20] or str(answers[-1].status_code)] += 1
            return False
        return True

    wait_until(done, lambda: answers[-1].text)
    assert answers[-1].is_success, answers[-1].text[:500]
    return answers[-1]


def taken(name: str) -> tuple[int, int]:
    """Return what the kernel counts for a container: its processes' own memory, and files in memory. In bytes."""
    show = "cat /sys/fs/cgroup/memory/memory.stat 2>/dev/null || cat /sys/fs/cgroup/memory.stat"
    pairs = dict(line.split() for line in docker("exec", name, "sh", "-c", show).splitlines())
    return int(pairs.get("total_rss") or pairs["anon"]), int(pairs.get("total_shmem") or pairs["shmem"])


@pytest.mark.parametrize("gib", [2, 4])
def test_the_settings_hold(full_image: str, gib: int, tmp_path: Path) -> None:
    """More users than fit are loaded and asked while a document is read; nothing is killed, a retry cures."""
    rows = np.random.default_rng(gib).random((RECORDS, DIMENSION), dtype=np.float32)
    encoded = [base64.b64encode(row.tobytes()).decode() for row in rows]
    body = {"ids": [f"n{number}" for number in range(RECORDS)], "embeddings": encoded}
    told: Counter[str] = Counter()
    most = [0, 0, 0]
    with instance(full_image, gib) as (name, client):
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.5):
                own, files = taken(name)
                most[:] = max(most[0], own), max(most[1], files), max(most[2], own + files)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            homes = []
            for user in range(USERS):
                home = f"/api/v2/tenants/u{user}/databases/default_database/collections"
                made = until_done(client, told, "POST", home, {"name": "notes", "get_or_create": True}).json()
                homes.append(f"{home}/{made['id']}")
                until_done(client, told, "POST", f"{homes[-1]}/upsert", body)
            client.put("/users/u0/avatars/7/documents/pump.docx", content=document_files.word())
            client.post("/users/u0/avatars/7/ingest")
            for user in np.random.default_rng(7).permutation(USERS * 2) % USERS:
                asked = {"query_embeddings": [rows[user].tolist()], "n_results": 3, "include": []}
                found = until_done(client, told, "POST", f"{homes[user]}/query", asked).json()
                assert found["ids"][0][0] == f"n{user}"
        finally:
            ended.set()
            watcher.join()
        print(f"{gib} GiB: processes {most[0] / MIB:.0f}, files {most[1] / MIB:.0f}, together {most[2] / MIB:.0f} MiB")
        print(f"refused, then done: {dict(told)}")
        assert state(name, ".State.OOMKilled") == "false"
        assert all(shard["deaths"] == 0 for shard in client.get("/admin/shards").json()["shards"])
        assert most[2] < gib * 1024 * MIB
