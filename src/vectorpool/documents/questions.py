"""Questions about an avatar's documents: what is said where there is nothing to ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vectorpool.errors import AvatarNotFound, CollectionNotFound, DocumentNotFound, UserNotFound


@contextmanager
def naming_documents(avatar_id: str) -> Iterator[None]:
    """Refuse a question about an avatar that has nothing to ask with what to do: its collection comes by an ingest."""
    how = f"Put documents at .../avatars/{avatar_id}/documents/PATH, then POST .../avatars/{avatar_id}/ingest."
    try:
        yield
    except (UserNotFound, AvatarNotFound) as error:
        raise type(error)(f"{error.detail} No document of avatar {avatar_id!r} was ingested. {how}") from error
    except CollectionNotFound as error:
        raise DocumentNotFound(f"No document of avatar {avatar_id!r} was ingested. {how}") from error
