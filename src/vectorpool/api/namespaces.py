"""The namespace of a request's collections: the user's own, or one avatar's. The same controllers serve both."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from litestar.di import NamedDependency
from litestar.params import PathParameter, SkipValidation

from vectorpool.names import check_avatar_id, check_user_id

UserId = Annotated[str, PathParameter(description="The user: one path segment of 1 to 128 bytes, kept as it is.")]
AvatarId = Annotated[str, PathParameter(description="The avatar: one path segment of 1 to 128 bytes, kept as it is.")]
CollectionName = Annotated[
    str,
    PathParameter(description="The collection: 3 to 512 of [a-zA-Z0-9._-], first and last a letter or digit."),
]

USER_PATH: Final = "/users/{user_id:str}"
AVATAR_PATH: Final = "/users/{user_id:str}/avatars/{avatar_id:str}"


class Namespace(msgspec.Struct, frozen=True):
    """The collections of an avatar, or, with ``avatar_id`` None, the user's own. The ids are checked."""

    user_id: str
    avatar_id: str | None = None


# The type of a handler's parameter ``namespace``.
Ns = NamedDependency[SkipValidation[Namespace]]


def own_namespace(user_id: UserId) -> Namespace:
    """Return the namespace of the user's own collections; raise InvalidId."""
    return Namespace(check_user_id(user_id))


def avatar_namespace(user_id: UserId, avatar_id: AvatarId) -> Namespace:
    """Return the namespace of an avatar's collections; raise InvalidId."""
    return Namespace(check_user_id(user_id), check_avatar_id(avatar_id))
