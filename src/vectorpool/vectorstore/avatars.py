"""Avatars and their collections, as the native API names them, over the engine's catalogue.

Each avatar has a database with a name made of its id; ``avatar_id`` None means the user's own collections.
"""

from __future__ import annotations

from vectorpool.engine.catalogue import Catalogue
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.errors import AvatarNotFound, CollectionNotFound
from vectorpool.names import avatar_of_database, database_name


def avatar_ids(catalogue: Catalogue) -> list[str]:
    """Return the ids of the avatars that have a database, sorted."""
    return sorted(a for name in catalogue.database_names() if (a := avatar_of_database(name)) is not None)


def check_avatar(catalogue: Catalogue, avatar_id: str) -> None:
    """Raise AvatarNotFound if the avatar has no database."""
    if not catalogue.has_database(database_name(avatar_id)):
        raise AvatarNotFound(f"The user has no avatar {avatar_id!r}. List the avatars to see which.")


def ensure_database(catalogue: Catalogue, avatar_id: str | None) -> None:
    """Create the database of an avatar, or the user's own, if it is missing."""
    name = database_name(avatar_id)
    if not catalogue.has_database(name):
        catalogue.create_database(name)


def collections_of(catalogue: Catalogue, avatar_id: str | None) -> list[CollectionInfo]:
    """Return the collections of an avatar, or the user's own, by name; none if the avatar is not there."""
    name = database_name(avatar_id)
    if avatar_id is not None and not catalogue.has_database(name):
        return []
    return sorted(catalogue.collections(name), key=lambda info: info.name)


def collection_of(catalogue: Catalogue, avatar_id: str | None, name: str) -> CollectionInfo:
    """Return one collection as it is now; raise CollectionNotFound."""
    return _found(catalogue.find(database_name(avatar_id), name), name)


def known_collection(
    catalogue: Catalogue, avatar_id: str | None, name: str, *, at_once: bool = False
) -> CollectionInfo | None:
    """Return one collection, cached until a write that may change it; raise CollectionNotFound.

    With ``at_once``, return None if that needs a call of Chroma.
    """
    if at_once:
        return catalogue.remembered(database_name(avatar_id), name)
    return _found(catalogue.known(database_name(avatar_id), name), name)


def _found(info: CollectionInfo | None, name: str) -> CollectionInfo:
    if info is None:
        raise CollectionNotFound(f"There is no collection {name!r}. Create it, or list those that are.")
    return info
