"""What the tests of the examples share: one running service, and a way to run a program against it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.service import Service, environment


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A served instance over a directory, for all examples: each has an avatar of its own."""
    served = Service(tmp_path_factory.mktemp("examples"), env={"VECTORPOOL_SYNC_ON_WRITE": "true"}).start()
    yield served
    served.close()


@pytest.fixture
def run(service: Service) -> Callable[..., str]:
    """Run a program of an example as a person does, and return what it prints."""

    def run(*command: str, cwd: Path) -> str:
        env = environment(VECTORPOOL_URL=service.url.rstrip("/"), NO_PROXY="*", no_proxy="*")
        program = [sys.executable, *command[1:]] if command[0] == "python" else [*command]
        ended = subprocess.run(program, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{service.errors[-3000:]}"
        return ended.stdout

    return run
