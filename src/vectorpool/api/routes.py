"""The routes of the native API: every controller, and the two places at which collections are."""

from __future__ import annotations

from litestar import Router
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from vectorpool.api.admin import Admin
from vectorpool.api.avatars import Avatars
from vectorpool.api.collections import Collections
from vectorpool.api.documents import Documents
from vectorpool.api.health import Health
from vectorpool.api.history import History
from vectorpool.api.places import AVATAR_PATH, USER_PATH, avatar_place, own_place
from vectorpool.api.records import Records
from vectorpool.api.users import Users


def native_routes() -> list[ControllerRouterHandler]:
    """Return the route handlers of the native API."""
    own = Router(
        USER_PATH,
        route_handlers=[Collections, Records],
        dependencies={"at": Provide(own_place, sync_to_thread=False)},
    )
    of_avatar = Router(
        AVATAR_PATH,
        route_handlers=[Collections, Records, Documents],
        dependencies={"at": Provide(avatar_place, sync_to_thread=False)},
    )
    return [Users, History, Avatars, own, of_avatar, Admin, Health]
