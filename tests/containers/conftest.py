"""The base of every image that is built here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.containers.docker import ROOT, build, docker
from tests.support.minio import docker_runs


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
