from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import Service

_users = itertools.count(1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A served instance over a directory, shared by a module; tests keep apart by user ids."""
    served = Service(tmp_path_factory.mktemp("service")).start()
    yield served
    served.close()


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[Service]:
    """A served instance of one test's own, to stop and to kill."""
    served = Service(tmp_path).start()
    yield served
    served.close()


@pytest.fixture
def user() -> str:
    """A user that no other test has."""
    return f"user-{next(_users)}"
