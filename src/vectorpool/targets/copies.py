"""What targets hold of a damaged vectorstore: looked at, and read into a directory, by a process of its own.

``python -m vectorpool.targets.copies`` takes an ``Ask`` on its standard input and answers a ``Told`` on its standard
output, both as JSON. A process of its own, because drivers and the engine are heavy, and the front has neither; URLs
with credentials are on no command line. Nothing is written at a target.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from vectorpool.errors import UserNotFound, VectorpoolError
from vectorpool.targets.records import Copy
from vectorpool.targets.urls import Target, parse

# Targets that are looked at together.
_AT_ONCE: Final = 8
_MOST_COLLECTIONS: Final = 1000


class Ask(msgspec.Struct):
    """What is asked: the copies of a user at targets, URLs by name; with ``directory``, the records of the only one."""

    user_id: str
    targets: dict[str, str]
    directory: str | None = None


class Told(msgspec.Struct):
    """The copies by the target's name, and what was wrong with others. ``fault`` is of a read that failed."""

    copies: dict[str, Copy] = {}
    faults: dict[str, str] = {}
    fault: str | None = None


def answer(ask: Ask) -> Told:
    """Return what is asked. Blocking."""
    told = Told()
    if ask.directory is not None:
        ((name, url),) = ask.targets.items()
        try:
            told.copies[name] = _read(parse(url), ask.user_id, Path(ask.directory))
        except VectorpoolError as error:
            told.fault = error.detail
        return told
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        looks = {name: pool.submit(_look, parse(url), ask.user_id) for name, url in ask.targets.items()}
        for name, look in looks.items():
            try:
                if (copy := look.result()) is not None:
                    told.copies[name] = copy
            except VectorpoolError as error:
                told.faults[name] = error.detail
    return told


def _look(target: Target, user_id: str) -> Copy | None:
    from vectorpool.targets import registry  # noqa: PLC0415 - drivers are for this process

    try:
        source = registry.open_source(target, user_id)
    except UserNotFound:
        return None
    try:
        if (copy := source.copy()) is None:
            return None
        places = sorted((each.database, each.name) for each in source.collections())
        return msgspec.structs.replace(copy, collections=places[:_MOST_COLLECTIONS])
    finally:
        source.close()


def _read(target: Target, user_id: str, directory: Path) -> Copy:
    """Write the records into a new directory; raise UserNotFound if the target has no finished export of the user."""
    from vectorpool.targets import registry, transfer  # noqa: PLC0415 - drivers and the engine are for this process
    from vectorpool.targets.directory import DirectoryWriter  # noqa: PLC0415

    source = registry.open_source(target, user_id)
    try:
        copy = source.copy()
        if copy is None:
            raise UserNotFound(f"{target.shown} has no finished export of user {user_id}.")
        writer = DirectoryWriter(directory)
        try:
            _, records = transfer.read_all(source, writer)
        finally:
            writer.close()
        # An export that went on meanwhile may have mixed two commits, where a target has no transactions.
        if source.copy() != copy:
            raise UserNotFound(f"An export changed {target.shown} while it was read. Try again.")
        return msgspec.structs.replace(copy, records=records)
    finally:
        source.close()


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(answer(msgspec.json.decode(sys.stdin.buffer.read(), type=Ask))))
