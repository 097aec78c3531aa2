"""``vectorpool query``, and an instance of its own for one command, over the same store.

Its replicas live in a temporary directory. This is correct beside a running service: the commit log orders
the commits of both, and each takes in the other's commit before its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from vectorpool.answers import QueryResult
from vectorpool.api.service import Service
from vectorpool.app import open_service
from vectorpool.cli.console import out, run
from vectorpool.commands import ReadOptions
from vectorpool.context import RequestContext
from vectorpool.errors import InvalidRequest
from vectorpool.names import check_avatar_id, check_user_id
from vectorpool.settings import Settings


@asynccontextmanager
async def temporary_service(settings: Settings) -> AsyncIterator[Service]:
    """Open an instance with one shard in this process, whose replicas are removed with it."""
    with tempfile.TemporaryDirectory(prefix="vectorpool-") as directory:
        own = msgspec.structs.replace(settings, shards=-1, replica_dir=directory)
        async with open_service(own) as service:
            yield service


# --- query -------------------------------------------------------------------------------------------


def query(settings: Settings, text: str, user_id: str, avatar_id: str, n_results: int, at: int | None) -> int:
    """Print the passages nearest to a question, as of commit ``at`` or now; return 1 if there are none."""
    check_user_id(user_id)
    check_avatar_id(avatar_id)
    if not text.strip():
        raise InvalidRequest("The question is empty. Ask in words.")
    return run(_query(settings, text, user_id, avatar_id, n_results, RequestContext(read=ReadOptions(at=at))))


async def _query(
    settings: Settings, text: str, user_id: str, avatar_id: str, n_results: int, context: RequestContext
) -> int:
    async with temporary_service(settings) as service:
        answer = await service.ingestor.query(user_id, avatar_id, text, n_results, context=context)
    found = msgspec.json.decode(answer.body, type=QueryResult)
    for matches in found.results:
        for number, match in enumerate(matches, start=1):
            metadata = match.metadata or {}
            place = f"{metadata.get('path', match.id)}:{metadata.get('start', 0)}-{metadata.get('end', 0)}"
            out.print(f"{number}. {place}  (distance {match.distance:.3f})", style="bold", markup=False)
            out.print((match.document or "").strip(), markup=False)
            out.print()
    return 0 if any(found.results) else 1
