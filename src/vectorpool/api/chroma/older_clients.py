"""Collections as Chroma's Python clients 0.5.16 to 0.6.3 read them.

Those clients take no field that they do not know, and want a configuration of their own shape, with ``_type`` in it. No
answer is readable for them and for later clients. Later ones announce ``Chroma Python Client v1.0.0``. These announce
only the HTTP library (``python-httpx/0.28.1``), and send no content type, which a request that is written by hand
with that library does if it has a body. A caller that wants today's shape and sends neither names itself in
``User-Agent``. They also send an empty filter where they mean none, which Chroma's server refuses today.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from litestar import Response

from vectorpool.answers import Answer
from vectorpool.api.call import Call
from vectorpool.api.responses import pass_on
from vectorpool.api.service import Service

# The version of a client before 1.0 that names itself, should there be one.
_BEFORE_1: Final = re.compile(r"Chroma Python Client v0\.")
_HTTP_LIBRARY: Final = "python-httpx/"
# Of the older configuration, by its names and today's. What is left out has the client's default.
_NAMES: Final = (
    ("space", "space"),
    ("ef_construction", "ef_construction"),
    ("ef_search", "ef_search"),
    ("M", "max_neighbors"),
    ("resize_factor", "resize_factor"),
    ("sync_threshold", "sync_threshold"),
)
_BATCH_SIZE: Final = 100


def is_older(service: Service, user_agent: str | None, content_type: str | None) -> bool:
    """Return whether a request with these headers (None: not sent) comes from a client before 1.0."""
    if not user_agent or not service.settings.older_clients:
        return False
    if user_agent.startswith(_HTTP_LIBRARY):
        return content_type is None
    return _BEFORE_1.match(user_agent) is not None


def pass_on_collections(request: Call, answer: Answer) -> Response[Any]:
    """Return a shard's answer, a collection or a list of them, in the shape that the client reads."""
    if not is_older(request.service, request.headers.get("user-agent"), request.headers.get("content-type")):
        return pass_on(answer)
    shown = msgspec.json.decode(answer.body)
    older = [_older(each) for each in shown] if isinstance(shown, list) else _older(shown)
    return pass_on(Answer(msgspec.json.encode(older), answer.commit))


def _older(collection: dict[str, Any]) -> dict[str, Any]:
    hnsw = (collection.get("configuration_json") or {}).get("hnsw") or {}
    values = {older: hnsw[name] for older, name in _NAMES if hnsw.get(name) is not None}
    if "resize_factor" in values:
        # The client asks for a float, and 1.0 may have come as 1.
        values["resize_factor"] = float(values["resize_factor"])
    if "sync_threshold" in values:
        # The client refuses a batch size above it, and its default is not.
        values["batch_size"] = min(_BATCH_SIZE, values["sync_threshold"])
    shown = {name: value for name, value in collection.items() if name != "schema"}
    shown["configuration_json"] = {
        "hnsw_configuration": {**values, "_type": "HNSWConfigurationInternal"},
        "_type": "CollectionConfigurationInternal",
    }
    return shown
