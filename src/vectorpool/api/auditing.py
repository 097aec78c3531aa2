"""Entries of the audit for requests: who asks, and what its handler does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from vectorpool.api.call import Call
from vectorpool.audit import Who
from vectorpool.errors import VectorpoolError


def who(request: Call) -> Who:
    """Return who sends a request, without its secret."""
    return Who(request.caller.name, request.context.request_id, request.caller.token_id)


@asynccontextmanager
async def audited(
    request: Call, action: str, user_id: str | None = None, **detail: Any
) -> AsyncIterator[dict[str, Any]]:
    """Put a block that changes what is stored, or who may do what, between its two entries.

    What the block adds to the dictionary that it gets is in the second one. Raises StoreUnavailable, and the block does
    not run, if the first entry cannot be written.
    """
    async with request.service.audit.recorded(action, who(request), user_id=user_id, detail=detail) as added:
        yield added


@asynccontextmanager
async def noted(request: Call, action: str, user_id: str | None = None, **detail: Any) -> AsyncIterator[dict[str, Any]]:
    """Note how a block ended that changes nothing that is stored, once it has; what it adds is in the entry."""
    audit, added = request.service.audit, dict[str, Any](detail)
    try:
        yield added
    except VectorpoolError as error:
        await audit.record(action, who(request), user_id=user_id, outcome="failed", error=error.code, detail=added)
        raise
    await audit.record(action, who(request), user_id=user_id, detail=added)
