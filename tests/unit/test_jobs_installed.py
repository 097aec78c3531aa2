"""An instance whose installation has no packages for jobs: it refuses them by name, and starts nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import sys

import pytest

from vectorpool.cli.jobs import worker
from vectorpool.errors import JobsNotInstalled
from vectorpool.jobs.client import Jobs
from vectorpool.jobs.protocol import Ping
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM
from vectorpool.supervision import Supervisor

URL = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _without_dbos(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the slim image: the package cannot be found."""
    monkeypatch.delitem(sys.modules, "dbos", raising=False)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dbos" else found(name))


async def test_requests_are_refused_and_no_process_is_started() -> None:
    """Every request gets the error that says what to use; writes schedule nothing; there is nothing to stop."""
    jobs, supervisor = Jobs(Settings(), lambda: URL), Supervisor(SYSTEM)
    jobs.start(supervisor)
    jobs.schedule("42", "7", "hut.md")
    await asyncio.sleep(0)
    with pytest.raises(JobsNotInstalled, match="full image"):
        await jobs.request(Ping(jobs.number()))
    assert await jobs.samples() == [] and jobs.process_id is None
    assert not jobs.are_installed and supervisor.view() == []
    await jobs.stop()


def test_a_worker_is_refused() -> None:
    """``vectorpool worker`` says the same, instead of an import that fails."""
    settings = Settings(jobs_url="postgresql://nobody@127.0.0.1/none", service_url=URL)
    with pytest.raises(JobsNotInstalled, match="full image"):
        worker(settings)
