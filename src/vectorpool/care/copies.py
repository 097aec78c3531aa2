"""Copies of a damaged vectorstore at the targets that the operator named, asked of a short-lived process.

A copy is believed if the target says that it is whole as of a commit above the user's last deletion, and if the log's
header of that number, where it can still be read, is of the same commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from vectorpool.commitlog.care import deleted_at
from vectorpool.commitlog.entries import entries
from vectorpool.errors import NothingToRecoverFrom
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.targets.copies import Ask, Told
from vectorpool.targets.named import named_targets, pick
from vectorpool.targets.records import Copy

# A look at all targets, which have a bound for each request of theirs, and the reading of one copy.
_LOOK_S: Final = 180.0
_READ_S: Final = 3600.0
_MOST_COMMITS: Final = 1000


class Copies(NamedTuple):
    """The copies that may be believed, by the target's name, and why others are not."""

    found: dict[str, Copy]
    faults: dict[str, str]


class CopyReader:
    """Reads what targets have. Belongs to one event loop. Raises Misconfigured for targets that cannot be meant."""

    def __init__(self, bucket: Bucket, settings: Settings) -> None:
        self._bucket = bucket
        self._targets = named_targets(settings)
        self._urls = {name: target.url for name, target in self._targets.items()}

    async def find(self, user_id: str) -> Copies:
        """Return the copies of a user. Targets that do not answer are faults. Raises StoreUnavailable."""
        if not self._urls:
            return Copies({}, {})
        told = await _ask(Ask(user_id, self._urls), _LOOK_S)
        faults = dict(told.faults)
        if told.fault is not None:
            faults = dict.fromkeys(self._urls, told.fault)
        if not told.copies:
            return Copies({}, faults)
        ended = await deleted_at(self._bucket, user_id)
        known = {
            each.seq: each.commit_hash.hex()
            for each in await entries(self._bucket, user_id, _MOST_COMMITS)
            if not each.damage
        }
        found: dict[str, Copy] = {}
        for name, copy in told.copies.items():
            if copy.commit <= ended:
                faults[name] = f"It has commit {copy.commit}, and the user was deleted by commit {ended}."
            elif known.get(copy.commit, copy.commit_hash) != copy.commit_hash:
                faults[name] = f"It has another commit {copy.commit} than the log: the copy is of another history."
            else:
                found[name] = copy
        return Copies(found, faults)

    async def read(self, user_id: str, name: str, commit: int, directory: Path) -> None:
        """Write the copy of a commit into an empty directory. Raises NothingToRecoverFrom if it cannot be had."""
        url = pick(self._targets, name).url
        told = await _ask(Ask(user_id, {name: url}, str(directory)), _READ_S)
        if told.fault is not None:
            raise NothingToRecoverFrom(f"The copy at {name} cannot be read: {told.fault}")
        if told.copies[name].commit != commit:
            raise NothingToRecoverFrom(f"The copy at {name} is of another commit by now. Look at the plan again.")


async def _ask(ask: Ask, limit_s: float) -> Told:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vectorpool.targets.copies",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(limit_s):
            told, _ = await process.communicate(msgspec.json.encode(ask))
        return msgspec.json.decode(told, type=Told)
    except TimeoutError:
        return Told(fault=f"It took longer than {limit_s:g} s.")
    except msgspec.DecodeError:
        return Told(fault="The process that reads targets died; the log of the instance says why.")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
