"""How many collections and databases one user may have: checked before one is made.

A state that came with more (an import, an adopted directory, another instance's setting) is served as it is. A command
that was acknowledged, and is applied again to another writer's state, is not refused.
"""

from __future__ import annotations

from vectorpool.engine.catalogue import Catalogue
from vectorpool.errors import LimitExceeded
from vectorpool.settings import Settings
from vectorpool.vectorstore.effect import Effect


def check_room(catalogue: Catalogue, database: str, settings: Settings, effect: Effect) -> None:
    """Raise LimitExceeded if there is no room for one more collection, or for its database if that is missing."""
    if effect.is_again:
        return
    if catalogue.count_all(settings.max_collections) >= settings.max_collections:
        raise _full("collections", settings.max_collections)
    check_database_room(catalogue, settings, effect, database)


def check_database_room(catalogue: Catalogue, settings: Settings, effect: Effect, database: str | None = None) -> None:
    """Raise LimitExceeded if there is no room for one more database, unless ``database`` is there already."""
    names = catalogue.database_names()
    if not effect.is_again and database not in names and len(names) >= settings.max_collections:
        raise _full("databases, avatars included", settings.max_collections)


def _full(what: str, most: int) -> LimitExceeded:
    return LimitExceeded(
        f"The user has {most} {what}, the most there may be (max_collections). Delete one first.",
        extra={"limit": most, "limit_name": "max_collections"},
    )
