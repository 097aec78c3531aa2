"""Entries of the audit for commands that work on a store: the caller is the account and the machine."""

from __future__ import annotations

import getpass
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from vectorpool.audit import Audit, Who
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings


def who() -> Who:
    """Return who runs this command."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):
        # An account without a name, such as a container's.
        account = "nameless"
    return Who(f"{account}@{socket.gethostname()}", via="command line")


@asynccontextmanager
async def audited(
    bucket: Bucket, settings: Settings, action: str, user_id: str | None = None, **detail: Any
) -> AsyncIterator[dict[str, Any]]:
    """Put a block that changes what is stored between its two entries. Raises StoreUnavailable before the block."""
    async with Audit(bucket, settings).recorded(action, who(), user_id=user_id, detail=detail) as added:
        yield added
