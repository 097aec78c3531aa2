"""The starts that need no checkout: the quick start's walk with the built wheel, by uvx and by pip.

``uv run pytest -m wheel`` runs them, every night. The container's start is in ``tests/containers``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.walks import ROOT, Walk, blocks

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(900)]

QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()
INSTALL_S = 600


def _uv(*arguments: str, cwd: Path = ROOT) -> str:
    uv = shutil.which("uv")
    assert uv is not None, "uv builds the wheel"
    ended = subprocess.run([uv, *arguments], cwd=cwd, capture_output=True, text=True, timeout=INSTALL_S)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a release builds it."""
    out = tmp_path_factory.mktemp("dist")
    _uv("build", "--quiet", "--wheel", "--out-dir", str(out))
    (built,) = out.glob("vectorpool-*.whl")
    return built


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory outside the checkout, to which no setting of this process leads."""
    before = os.environ.pop("PYTHONPATH", None)
    yield tmp_path
    if before is not None:
        os.environ["PYTHONPATH"] = before


def _program(path: Path, command: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)


def by_uvx(wheel: Path, directory: Path) -> Path:
    """Return a folder whose ``vectorpool`` is the page's ``uvx`` line, with the wheel for the package."""
    assert "uvx vectorpool serve\n" in [content for _, content in blocks(QUICKSTART)]
    programs = directory / "programs"
    programs.mkdir()
    _program(programs / "vectorpool", f"uvx --quiet --from {wheel} vectorpool")
    # The walk opens an export with chromadb, which a newcomer has from the same installation.
    _program(programs / "python", f"uv run --quiet --no-project --with {wheel} python")
    return programs


def by_pip(wheel: Path, directory: Path) -> Path:
    """Return the programs of an environment that the page's own lines made, with the wheel in place of the name."""
    (lines,) = (content for _, content in blocks(QUICKSTART) if "pip install vectorpool\n" in content)
    script = lines.replace("pip install vectorpool", f"pip install --quiet {wheel}").replace("vectorpool serve\n", "")
    script = script.replace("python3 -m venv", f"{sys.executable} -m venv")
    command = ["bash", "-euo", "pipefail", "-c", script]
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_S)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return directory / "vectorpool-env" / "bin"


@pytest.mark.parametrize("start", [by_uvx, by_pip])
def test_a_newcomer_walks_through_the_quick_start(start, wheel: Path, outside: Path) -> None:
    """Installed in this way, outside the checkout, every command of the quick start prints what the page shows."""
    programs = start(wheel, outside)
    (outside / "walk").mkdir()
    walk = Walk(outside / "walk", {}, programs=programs)
    try:
        where = walk.run("import vectorpool; print(vectorpool.__file__)", "python")
        assert str(ROOT) not in where
        assert len(list(walk.take(QUICKSTART))) > 10
    finally:
        walk.close()
