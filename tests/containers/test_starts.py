"""The starts by containers: the quick start's walk with ``docker run`` and with ``docker compose``.

The page says what takes the place of the checkout's commands; these tests take it from there. The starts that need no
container are in ``tests/acceptance/test_starts.py``.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.containers.docker import ROOT, docker, is_ready, wait_until
from tests.containers.fleet import TOKEN, Fleet
from tests.support.store import free_port
from tests.support.walks import Walk, blocks

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()
# What the service prints of its paths and its address is the container's own.
WALK = re.sub(r"(```bash\nuv run vectorpool serve\n```\n+)```text\n.*?^```\n", r"\1", QUICKSTART, flags=re.S | re.M)
STARTS = QUICKSTART.partition("## Other starts")[2]


def start_of(command: str) -> str:
    """Return the page's block that begins with a command."""
    (found,) = (content for _, content in blocks(STARTS) if content.startswith(command))
    return found.rstrip()


def in_place_of(part: str, which: int) -> list[str]:
    """Return what a table of the page has in the place of a part of the walk: the first table or the second."""
    rows = re.findall(rf"^\| [^|]*{re.escape(part)}[^|]* \| (.*) \|$", STARTS, re.MULTILINE)
    return [text.replace("\\|", "|").removesuffix(" ...") for text in re.findall(r"`([^`]+)`", rows[which])]


class ContainerWalk(Walk):
    """A walk whose service, and every command beside it, runs in containers."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, {})
        self.port = str(port)
        self._ports["8000"] = self.port
        # What the page writes, and what is written here: names of images, containers and projects.
        self.names: list[tuple[str, str]] = []
        self.vectorpool = self.python = ""

    def named(self, script: str) -> str:
        """Return a line of the page with the names of this test."""
        for shown, own in self.names:
            script = script.replace(shown, own)
        return script

    def _here(self, script: str) -> str:
        script = script.replace("uv run vectorpool", self.vectorpool).replace("uv run python", self.python)
        return super()._here(script)

    def wait(self) -> None:
        """Wait until the service takes work, jobs too."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, headers=TOKEN) as client:
            wait_until(lambda: is_ready(client), lambda: "it does not start")
            wait_until(lambda: client.get("/users/nobody/jobs").status_code == 200, lambda: "it has no jobs")


class RunWalk(ContainerWalk):
    """The service by ``docker run``."""

    def __init__(self, directory: Path, port: int, image: str) -> None:
        super().__init__(directory, port)
        self.name = f"vectorpool-test-walk-{port}"
        self.names = [
            ("127.0.0.1:8000:", f"127.0.0.1:{port}:"),
            ("--name vectorpool", f"--name {self.name}"),
            ("-v vectorpool:", f"-v {self.name}:"),
            ("--entrypoint rm vectorpool", f"--entrypoint rm {image}"),
            (':ro" vectorpool', f':ro" {image}'),
            ("docker exec vectorpool", f"docker exec {self.name}"),
        ]
        self.vectorpool, self.python = map(self.named, in_place_of("uv run vectorpool", 0))
        (self._remove,) = map(self.named, in_place_of("rm -rf .vectorpool/replicas", 0))
        self._line = self.named(start_of("docker run --rm --name"))
        self._running: subprocess.Popen[bytes] | None = None

    def _here(self, script: str) -> str:
        return super()._here(script.replace("rm -rf .vectorpool/replicas", self._remove))

    def _serve(self, line: str) -> str:
        with self._log.open("a") as log:
            command = ["bash", "-c", f"exec {self._line}"]
            self._running = subprocess.Popen(command, cwd=ROOT, env=self._env, stdout=log, stderr=log)
        self.wait()
        return ""

    def stop(self) -> None:
        """Send what Ctrl-C sends: the client passes it on to the container."""
        running, self._running = self._running, None
        if running is not None:
            running.send_signal(2)
            assert running.wait(60) == 0

    def close(self) -> None:
        """Remove the container and its volume."""
        docker("rm", "-f", self.name, check=False)
        if self._running is not None:
            self._running.wait(60)
        docker("volume", "rm", self.name, check=False)


class FleetWalk(ContainerWalk):
    """The service by ``docker compose``."""

    def __init__(self, directory: Path, fleet: Fleet) -> None:
        super().__init__(directory, fleet.port)
        self._fleet = fleet
        self.names = [("docker compose", fleet.line)]
        self.vectorpool, self.python, self._examples = map(self.named, in_place_of("uv run vectorpool", 1))
        (self._again,) = map(self.named, in_place_of("rm -rf .vectorpool/replicas", 1))
        self._env |= fleet.env
        self._is_up = False

    def _serve(self, line: str) -> str:
        # From the folder of compose.yaml, as on the page, but for the file that curl reads.
        start = self._again if self._is_up else self.named(start_of("docker compose up"))
        self._is_up = True
        self._bash(start)
        self.wait()
        # The last to start, and no check of compose's waits for it.
        worker = self._fleet.name("worker")
        wait_until(lambda: "runs jobs" in docker("logs", worker), lambda: docker("logs", worker))
        self._bash(self._examples.replace("tar -c", "tar -ch"))
        return ""

    def stop(self) -> None:
        """Leave it: the line that starts it again replaces the containers."""

    def close(self) -> None:
        """Remove all of it."""
        self._fleet.compose("down", "--volumes", "--timeout", "2", check=False)


def test_a_newcomer_walks_by_docker_run(full_image: str, tmp_path: Path) -> None:
    """Every command of the quick start prints what the page shows, with the service in a container on a volume."""
    walk = RunWalk(tmp_path, free_port(), full_image)
    try:
        assert len(list(walk.take(WALK))) > 10
    finally:
        walk.close()


def test_a_newcomer_walks_by_docker_compose(full_image: str, standins: str, tmp_path: Path) -> None:
    """The same against two instances behind nginx, which are replaced in the middle; the worker ingests."""
    walk = FleetWalk(tmp_path, Fleet(full_image, standins))
    try:
        assert len(list(walk.take(WALK))) > 10
    finally:
        walk.close()
