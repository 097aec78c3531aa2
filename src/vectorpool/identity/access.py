"""What a caller may do, by the method and the path of its request, for both protocols.

The path is read segment by segment as the router reads it. A method that is not known to read writes, and a POST reads
only if this module lists it: so a route that is added is closed to readers until it is listed here. A user that only
a body names (the target of a fork, a new tenant) is checked by its handler: see ``Caller.check``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vectorpool.errors import Forbidden
from vectorpool.identity.caller import Caller
from vectorpool.names import avatar_of_database

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Open without a token: what load balancers and new callers ask, and what Chroma's servers leave open.
_OPEN_FAMILIES: Final = frozenset({"health", "schema"})
_OPEN: Final = frozenset(
    {
        ("api", "v2"),
        ("api", "v2", "heartbeat"),
        ("api", "v2", "version"),
        ("api", "v2", "healthcheck"),
        ("api", "v2", "pre-flight-checks"),
    }
)


def is_open(segments: Sequence[str]) -> bool:
    """Return whether a path needs no token."""
    return bool(segments) and (segments[0] in _OPEN_FAMILIES or tuple(segments) in _OPEN)


def check_access(caller: Caller, method: str, segments: Sequence[str]) -> None:
    """Raise Forbidden if the caller may not send this method to this path. Whether the user exists plays no part."""
    match segments:
        case ["users", user_id, *rest]:
            _check_user(caller, user_id)
            # A job belongs to an avatar, which its handler checks.
            if rest[:1] != ["jobs"]:
                _check_avatar(caller, rest[1] if len(rest) > 1 and rest[0] == "avatars" else None)
            _check_write(caller, method in _READING or (method == "POST" and _reads_natively(rest)))
        case ["vectorflow", "users", user_id, *rest]:
            _check_user(caller, user_id)
            _check_avatar(caller, rest[1] if len(rest) > 1 and rest[0] == "avatars" else None)
            _check_write(caller, method in _READING or (method == "POST" and rest[2:] == ["jobs", "status"]))
        case ["vectorflow", *_]:
            raise Forbidden("VectorFlow's routes are those of an avatar: /vectorflow/users/USER/avatars/AVATAR.")
        case ["api", "v2", "tenants", user_id, *rest]:
            _check_user(caller, user_id)
            # Chroma's clients ask for the tenant before all else; the answer is the name that they sent.
            if rest or method not in _READING:
                _check_avatar(caller, avatar_of_database(rest[1]) if len(rest) > 1 and rest[0] == "databases" else None)
            _check_write(caller, method in _READING or (method == "POST" and _reads_as_chroma(rest)))
        case ["api", "v2", "tenants" | "reset" | "collections", *_]:
            # A tenant that the body names, and all tenants of the caller.
            _check_avatar(caller, None)
            _check_write(caller, method in _READING)
        case ["embed"]:
            # Texts of no user, so of a caller that has some.
            if caller.users is not None and not caller.users:
                raise Forbidden("This token opens no user's data, so it may not embed. Send one that does.")
        case ["admin", *_] | ["users"] | ["metrics", *_]:
            if not caller.is_admin:
                raise Forbidden("This token may not operate the service. Send one with admin = true.")


def _check_user(caller: Caller, user_id: str) -> None:
    if not caller.may_touch(user_id):
        raise Forbidden("This token may not touch the user in the path. Send one that may.")


def _check_avatar(caller: Caller, avatar_id: str | None) -> None:
    if caller.avatars is not None and avatar_id not in caller.avatars:
        raise Forbidden("This token may touch only paths of its avatars. Ask for one of them, or send another token.")


def _check_write(caller: Caller, is_read: bool) -> None:
    if not is_read and not caller.may_write:
        raise Forbidden('This token may only read. Send one whose access is "write".')


def _reads_natively(rest: Sequence[str]) -> bool:
    """Return whether a POST below a user's path changes nothing."""
    if rest[:1] == ["avatars"]:
        if len(rest) == 3:
            return rest[2] == "query"
        rest = rest[2:]
    match rest:
        case ["collections", _, "query"] | ["collections", _, "records", "get"]:
            return True
    return False


def _reads_as_chroma(rest: Sequence[str]) -> bool:
    """Return whether a POST below a tenant's path changes nothing."""
    match rest:
        case ["databases", _, "collections", _, "query" | "get" | "search"]:
            return True
    return False
