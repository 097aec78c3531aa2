"""The base of every image that is built here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from tests.containers.docker import ROOT, build, docker
from tests.support.minio import docker_runs

PULL_S = 120
BASE_S = 300
PROBE_S = 60


def unavailable(reason: str) -> NoReturn:
    """Skip what needs a container, or fail where ``VECTORPOOL_TEST_CONTAINERS`` is ``required``."""
    if os.environ.get("VECTORPOOL_TEST_CONTAINERS") == "required":
        pytest.fail(f"no container runs here: {reason}")
    pytest.skip(f"no container runs here: {reason}")


def tried(*command: str, within_s: float) -> str:
    """Run a command; return an empty text, or why it failed."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=within_s)
    except subprocess.TimeoutExpired:
        return f"{command[0]} took longer than {within_s} s"
    return "" if ended.returncode == 0 else (ended.stderr.strip().splitlines() or [f"code {ended.returncode}"])[-1]


def base_image() -> str:
    """Return the base image: the Dockerfile's if it can be pulled, else one of Debian's packages."""
    named = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert named is not None
    if not tried("docker", "pull", "--quiet", named[1], within_s=PULL_S):
        return named[1]
    name = os.environ.get("VECTORPOOL_TEST_BASE", "vectorpool-base")
    if not docker("images", "--quiet", name):
        if not shutil.which("debootstrap"):
            unavailable("the base image cannot be pulled, and debootstrap is not installed")
        if reason := tried(str(Path(__file__).with_name("base-image")), name, within_s=BASE_S):
            unavailable(f"the base image can be neither pulled nor made: {reason}")
    return name


@pytest.fixture(scope="session")
def base() -> str:
    """Return the base of all images that are built here, in which Python's packages can be installed."""
    if not shutil.which("docker"):
        unavailable("docker is not installed")
    if reason := docker_runs():
        unavailable(reason)
    name = base_image()
    # What a build needs and a machine may lack: containers, and a network in them.
    pip = ("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "/tmp/probe", "dumb-init")
    if reason := tried("docker", "run", "--rm", "--network", "host", name, *pip, within_s=PROBE_S):
        unavailable(f"a container cannot install Python's packages: {reason}")
    return name


@pytest.fixture(scope="session")
def full_image(base: str) -> str:
    """Return the whole image of this checkout."""
    return build(base, "full")


@pytest.fixture(scope="session")
def slim_image(base: str) -> str:
    """Return the slim image of this checkout."""
    return build(base, "slim")


@pytest.fixture(scope="session")
def standins(full_image: str) -> str:
    """Return the image that stands in for MinIO, PostgreSQL and nginx."""
    name, folder = "vectorpool-test:standins", str(Path(__file__).with_name("standins"))
    docker("build", "--network", "host", "--build-arg", f"IMAGE={full_image}", "-t", name, folder)
    return name
