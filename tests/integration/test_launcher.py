"""What ``vectorpool serve`` sets for its own processes, so that nobody has to."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import Service


@pytest.fixture
def small_soft_limit() -> Iterator[int]:
    """A soft limit of descriptors as low as a shell's, for this process and those it starts; yields the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("the hard limit of descriptors is low here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _soft_limit(pid: int) -> str:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[3] for line in lines if line.startswith("Max open files"))


def test_every_process_may_open_what_the_system_allows(small_soft_limit: int, tmp_path: Path) -> None:
    """Front and shard raise their limit of descriptors to the hard one, and say if the slots may need more."""
    allowed = "unlimited" if small_soft_limit == resource.RLIM_INFINITY else str(small_soft_limit)
    service = Service(tmp_path, "--shards", "1", "--open-slots", "100000").start()
    try:
        tasks = Path(f"/proc/{service.pid}/task").glob("*/children")
        children = [int(pid) for task in tasks for pid in task.read_text().split()]
        # The worker of jobs is a child too.
        shards = [pid for pid in children if b"vectorpool.shard.process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(shards) == 1
        assert [_soft_limit(pid) for pid in (service.pid, *shards)] == [allowed, allowed]
        too_few = allowed != "unlimited" and small_soft_limit < 1_000_000
        assert ("raise the limit (ulimit -n)" in service.errors) == too_few
        assert service.stop() == 0, service.errors
    finally:
        service.close()
