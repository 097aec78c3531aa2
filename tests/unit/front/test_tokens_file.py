"""The tokens file while the service runs: what changes, what stays, and when it is looked at."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.unit.front.parts import Answering
from vectorpool.api.callers import read_callers
from vectorpool.errors import Unauthenticated
from vectorpool.front.identity import IdentityStage
from vectorpool.front.tokens_file import LOOK_EVERY_S, TokensFile
from vectorpool.sources import SystemSources
from vectorpool.supervision import Supervisor


class Turns(SystemSources):
    """A clock whose waits end when the test says so."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._turn = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self._turn.wait()
        self._turn.clear()

    async def pass_time(self) -> None:
        """End the wait under way, and return when the next one begins."""
        count = len(self.waits)
        self._turn.set()
        while len(self.waits) == count:
            await asyncio.sleep(0.001)


def table(name: str) -> str:
    return f'[tokens.{name}]\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\nusers = ["42"]\n'


def knows(stage: IdentityStage, name: str) -> bool:
    try:
        return stage.callers.identify([(b"authorization", f"Bearer {name}".encode())]).name == name
    except Unauthenticated:
        return False


@pytest.fixture
async def watched(tmp_path: Path) -> Any:
    """(the file, the stage, its clock, the TokensFile) while the file is watched; alice is known."""
    file = tmp_path / "tokens.toml"
    file.write_text(table("alice"))
    stage, turns = IdentityStage(Answering(), read_callers(str(file))), Turns()
    tokens = TokensFile(str(file), stage, turns)
    task = asyncio.create_task(tokens.watch())
    while not turns.waits:
        await asyncio.sleep(0)
    await turns.pass_time()
    yield file, stage, turns, tokens
    task.cancel()


async def test_a_changed_file_is_seen_within_a_minute(watched: Any) -> None:
    """A token that was added is known and one that was taken away is not, after one look; looks come often enough."""
    file, stage, turns, _ = watched
    file.write_text(table("bob"))
    assert (knows(stage, "alice"), knows(stage, "bob")) == (True, False)
    await turns.pass_time()
    assert (knows(stage, "alice"), knows(stage, "bob")) == (False, True)
    assert set(turns.waits) == {LOOK_EVERY_S} and LOOK_EVERY_S < 60


async def test_a_replaced_file_is_seen(watched: Any, tmp_path: Path) -> None:
    """A file that is moved over the old one, as mounted secrets are, counts as a change."""
    file, stage, turns, _ = watched
    other = tmp_path / "other.toml"
    other.write_text(table("carol"))
    other.replace(file)
    await turns.pass_time()
    assert knows(stage, "carol") and not knows(stage, "alice")


@pytest.mark.parametrize("content", ["[tokens.alice", "", None, '[tokens.alice]\nsha256 = "short"\n'])
async def test_a_file_that_cannot_be_meant_changes_nothing(
    watched: Any, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The known tokens stay, the log says once what is wrong, and the mended file counts again."""
    file, stage, turns, _ = watched
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    for _ in range(3):
        await turns.pass_time()
    assert knows(stage, "alice")
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and str(file) in errors[0].getMessage()
    file.write_text(table("dave"))
    await turns.pass_time()
    assert knows(stage, "dave") and not knows(stage, "alice")


async def test_a_reload_does_not_wait_for_the_next_look(watched: Any) -> None:
    """What an operator asks for is done at once."""
    file, stage, _, tokens = watched
    file.write_text(table("erin"))
    await tokens.reload()
    assert knows(stage, "erin")


async def test_without_a_file_nothing_is_watched() -> None:
    """No task is started, and a reload changes nothing."""
    stage = IdentityStage(Answering(), read_callers(None))
    tokens, supervisor = TokensFile(None, stage, Turns()), Supervisor(SystemSources())
    tokens.start(supervisor)
    assert supervisor.view() == []
    await tokens.reload()
    assert stage.callers.count is None
