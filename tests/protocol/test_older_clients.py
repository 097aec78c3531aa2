"""Chroma's Python clients of other versions, each in an environment of its own: ``uv run pytest -m versions``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service, environment

# Runs where nothing of this project is installed.
DRIVER = Path(__file__).parents[1] / "support" / "client_of_a_version.py"
# 0.5.23 itself sends upserts to the default tenant, whatever tenant it was given.
CLIENTS = {"0.5.16": "older", "0.5.23": "default_tenant", "0.6.3": "old", "1.0.0": "first", "1.3.7": "third"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    served = Service(tmp_path_factory.mktemp("service"), "--shards", "2").start()
    yield served
    served.close()


def drive(command: list[str], service: Service, tenant: str) -> dict[str, Any]:
    """Return what a client was told."""
    port = service.url.rpartition(":")[2].strip("/")
    env = environment(NO_PROXY="*", no_proxy="*")
    ended = subprocess.run([*command, port, tenant], capture_output=True, text=True, timeout=500, env=env)
    assert ended.returncode == 0, ended.stderr[-4000:]
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


def test_todays_client_runs_the_script(service: Service) -> None:
    """The script that older clients run is one that today's client runs, and its answers are those expected."""
    told = drive([sys.executable, "-P", str(DRIVER)], service, "today")
    assert told["count"] == 3 and told["left"] == 0 and told["batch"] == 5461
    assert told["query"][0] == [["a", "c"]] and told["where"] == ["c"]


@pytest.mark.versions
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", CLIENTS)
def test_a_client_of_another_version_is_told_what_todays_is(service: Service, version: str) -> None:
    """Create, write, read, query, rename and delete end with every version as they end with today's."""
    uv = shutil.which("uv")
    assert uv is not None, "uv makes the environments of other versions"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    isolated = [uv, "run", "-q", "--isolated", "--no-project", "--python", python]
    packages = ["--with", f"chromadb=={version}", "--with", "numpy<2"]
    told = drive([*isolated, *packages, "python", "-P", str(DRIVER)], service, CLIENTS[version])
    expected = drive([sys.executable, "-P", str(DRIVER)], service, f"today-{version}")
    assert told.pop("version") == version
    del expected["version"]
    assert told == expected
