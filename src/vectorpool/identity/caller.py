"""The caller of a request: the users and avatars that its token allows, and whether it may write."""

from __future__ import annotations

from typing import Final

import msgspec

from vectorpool.errors import Forbidden
from vectorpool.limits import Given
from vectorpool.names import is_reserved

ALL_USERS: Final = "*"


class Caller(msgspec.Struct, frozen=True):
    """The sender of a request, as far as the token says.

    ``users`` are the ids that it may touch, None for every user; ``is_admin`` opens ``/admin``, and only that.
    ``avatars`` narrows it to paths of these avatars; None does not narrow. Without ``may_write`` it reads only.
    ``limits`` are those of the token, which narrow the user's. ``token_id`` is what revokes the token.
    """

    name: str
    users: frozenset[str] | None = frozenset()
    is_admin: bool = False
    avatars: frozenset[str] | None = None
    may_write: bool = True
    limits: Given | None = None
    token_id: str | None = None

    def may_touch(self, user_id: str) -> bool:
        """Return whether the caller may reach what is this user's, at least a part of it."""
        return self.users is None or user_id in self.users

    def check(self, user_id: str) -> str:
        """Return ``user_id`` if the caller may change all that is this user's; raise Forbidden otherwise.

        The answer is the same whether or not the user exists.
        """
        if is_reserved(user_id):
            raise reserved()
        if not self.may_touch(user_id):
            raise Forbidden("This token may not touch this user. Send one that may, or ask for a user that is yours.")
        if self.avatars is not None or not self.may_write:
            raise Forbidden("This token may not change the whole of a user. Send one without avatars that may write.")
        return user_id


def reserved() -> Forbidden:
    """Return the refusal of a user id that is the service's own."""
    return Forbidden("Users of this name are the service's own: its canaries. Use another user id.")


ANY_CALLER: Final = Caller("anybody", users=None, is_admin=True)
NO_CALLER: Final = Caller("none")
