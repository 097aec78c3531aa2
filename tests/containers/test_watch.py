"""``docker compose watch dev``: a changed source is copied into the container, which starts again with it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.containers.docker import ROOT, build, docker, is_ready, wait_until
from tests.containers.fleet import TOKEN, compose_program
from tests.support.store import free_port

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]


def test_a_changed_source_is_taken(base: str, tmp_path: Path) -> None:
    """The version that it tells is another one after its line was changed outside the container."""
    image, port = build(base, "dev"), free_port()
    for name in ("compose.yaml", "Dockerfile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("deploy", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    own = f'services:\n  dev:\n    image: {image}\n    ports: !override ["127.0.0.1:{port}:8000"]\n'
    (tmp_path / "own.yaml").write_text(own)
    files = ("-f", str(tmp_path / "compose.yaml"), "-f", str(tmp_path / "own.yaml"))
    compose = [*compose_program(), "-p", f"vectorpool-watch-{port}", *files, "--profile", "dev"]
    watching: subprocess.Popen[bytes] | None = None
    try:
        subprocess.run([*compose, "up", "--detach", "--no-build", "--wait", "dev"], check=True, capture_output=True)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=TOKEN, timeout=30) as client:
            wait_until(lambda: is_ready(client), lambda: "it does not start")
            before = client.get("/api/v2/version").headers["X-Vectorpool-Version"]
            watching = subprocess.Popen([*compose, "watch", "--no-up", "dev"], stdout=subprocess.PIPE)
            assert watching.stdout is not None
            assert b"Watch enabled" in watching.stdout.readline()
            version = tmp_path / "src" / "vectorpool" / "version.py"
            version.write_text(version.read_text().replace(f'"{before}"', '"9.9.9"'))

            def is_taken() -> bool:
                try:
                    return client.get("/api/v2/version").headers.get("X-Vectorpool-Version") == "9.9.9"
                except httpx.TransportError:
                    return False

            wait_until(is_taken, lambda: docker("ps", "--all"))
    finally:
        if watching is not None:
            watching.terminate()
            watching.wait(timeout=30)
        subprocess.run([*compose, "down", "--volumes", "--timeout", "2"], check=False, capture_output=True)
