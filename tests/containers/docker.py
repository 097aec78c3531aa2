"""Docker as a command: what the tests of this folder say to it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
START_S = 120.0


def docker(*arguments: str, check: bool = True) -> str:
    """Run a command of Docker's; return what it prints."""
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert not check or ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.strip()


def build(base: str, target: str) -> str:
    """Build a stage of the Dockerfile on a base; return the image's name."""
    name = f"vectorpool-test:{target}"
    docker("build", "--network", "host", "--build-arg", f"BASE={base}", "--target", target, "-t", name, ".")
    return name


def megabytes(image: str) -> float:
    """Return the size of an image."""
    return float(docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def state(container: str, what: str = ".State.Status") -> str:
    """Return a part of what Docker knows of a container, by its template."""
    return docker("inspect", "--format", f"{{{{{what}}}}}", container)


def wait_until(holds: Callable[[], bool], told: Callable[[], str], within_s: float = START_S) -> None:
    """Wait until something holds; fail with what is told then."""
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, told()
        time.sleep(0.1)


def is_ready(client: httpx.Client) -> bool:
    """Return whether the service behind a client takes work."""
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False
