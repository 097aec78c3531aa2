"""A service with few file descriptors: its slots follow the limit, and no request fails for want of one."""

from __future__ import annotations

import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.service import COMMAND, Service, environment

DIMENSION = 4
USERS, COLLECTIONS = 12, 6


@pytest.mark.parametrize("shards", ["1", "-1"])
def test_a_low_limit_aborts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: str) -> None:
    """With a hard limit of 256, a dozen users of several collections each are served, and nothing is called damaged."""
    limited = tmp_path / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -n 256 && exec "{COMMAND}" "$@"\n')
    limited.chmod(0o755)
    monkeypatch.setattr("tests.support.service.COMMAND", str(limited))
    service = Service(tmp_path, "--shards", shards, "--hnsw-sync-threshold", "4").start()
    try:

        def use(user: int) -> None:
            dice = random.Random(user)
            for number in range(COLLECTIONS):
                service.ok("POST", f"/users/u{user}/collections", json={"name": f"notes{number}"})
                records = [
                    {"id": f"r{i}", "embedding": [dice.random() for _ in range(DIMENSION)], "metadata": {"even": i % 2}}
                    for i in range(12)
                ]
                place = f"/users/u{user}/collections/notes{number}/records"
                service.ok("POST", place, json={"records": records})
                query = {"embeddings": [[1.0, 0.0, 0.0, 0.0]], "where": {"even": 1}, "n_results": 3}
                service.ok("POST", f"{place.removesuffix('/records')}/query", json=query)

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(use, range(USERS)))
        assert "open slots instead of 100" in service.errors
        assert "Too many open files" not in service.errors
    finally:
        service.stop()


def test_a_limit_that_is_too_low_is_refused_at_the_start(tmp_path: Path) -> None:
    """The service says which limit to raise, and does not start."""
    command = f'ulimit -n 100 && exec "{COMMAND}" serve --store "{tmp_path}/store" --port 0'
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=60, env=environment(), cwd=tmp_path, check=False
    )
    assert done.returncode != 0
    assert "Raise the limit (ulimit -n" in done.stderr + done.stdout
