"""The routes: the controllers of the native API, for both namespaces of collections, and of Chroma's protocol."""

from __future__ import annotations

from litestar import Router
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from vectorpool.api.admin import Admin
from vectorpool.api.avatars import Avatars
from vectorpool.api.care import OperatorsCare, UserCare
from vectorpool.api.chroma import collections as chroma_collections
from vectorpool.api.chroma import records as chroma_records
from vectorpool.api.chroma.requests import API_PATH
from vectorpool.api.chroma.system import System, refuse_v1
from vectorpool.api.chroma.tenants import Tenants
from vectorpool.api.chroma.unsupported import Unsupported
from vectorpool.api.collections import Collections
from vectorpool.api.commits import History
from vectorpool.api.direct import DirectIngest
from vectorpool.api.documents import Documents
from vectorpool.api.events import StoreEvents
from vectorpool.api.exports import Exports
from vectorpool.api.health import Health
from vectorpool.api.jobs import Jobs
from vectorpool.api.limits import Usage, UserLimits
from vectorpool.api.metrics import Metrics
from vectorpool.api.namespaces import AVATAR_PATH, USER_PATH, avatar_namespace, own_namespace
from vectorpool.api.pipelines import Pipelines
from vectorpool.api.records import Records
from vectorpool.api.streams import Streams
from vectorpool.api.tokens import Tokens
from vectorpool.api.transfers import TransferRoutes
from vectorpool.api.uploads import Uploads
from vectorpool.api.users import Users
from vectorpool.api.vectorflow import VectorFlow
from vectorpool.api.vectors import Vectors
from vectorpool.api.workers import TransferWorkers, Workers
from vectorpool.settings import Settings

# The largest body that Chroma's server takes.
_CHROMA_BODY_BYTES = 40 * 1024**2


def native_routes() -> list[ControllerRouterHandler]:
    """Return the route handlers of the native API."""
    own = Router(
        USER_PATH,
        route_handlers=[Collections, Records, Streams],
        dependencies={"namespace": Provide(own_namespace, sync_to_thread=False)},
    )
    of_avatar = Router(
        AVATAR_PATH,
        route_handlers=[Collections, Records, Streams, Documents, DirectIngest, Pipelines, Uploads, Workers],
        dependencies={"namespace": Provide(avatar_namespace, sync_to_thread=False)},
    )
    vectorflow = Router(
        f"/vectorflow{AVATAR_PATH}",
        route_handlers=[VectorFlow],
        dependencies={"namespace": Provide(avatar_namespace, sync_to_thread=False)},
    )
    operators: list[ControllerRouterHandler] = [Admin, OperatorsCare, StoreEvents, TransferRoutes, UserLimits, Tokens]
    of_user: list[ControllerRouterHandler] = [Users, UserCare, History, Avatars, Jobs, own, of_avatar, vectorflow]
    of_user += [Exports, TransferWorkers]
    return [*of_user, Vectors, Usage, *operators, Health, Metrics]


def chroma_routes(settings: Settings) -> list[ControllerRouterHandler]:
    """Return the route handlers of Chroma's own protocol."""
    v2 = Router(
        API_PATH,
        route_handlers=[System, Tenants, chroma_collections.Collections, chroma_records.Records, Unsupported],
        request_max_body_size=min(settings.max_body_bytes, _CHROMA_BODY_BYTES),
    )
    return [v2, refuse_v1]
