"""The OpenAPI document of Chroma's protocol: the schemas of its bodies and of its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import msgspec
from litestar.openapi.spec import Operation, Parameter
from litestar.openapi.spec.enums import OpenAPIType
from litestar.openapi.spec.schema import Schema

from vectorpool.api.documentation import COMMIT_HEADER_DOC

_STRINGS: Final = {"type": "array", "items": {"type": "string"}}
_TEXTS: Final = {"type": ["array", "null"], "items": {"type": ["string", "null"]}}
_SCALAR: Final = {"type": ["boolean", "integer", "number", "string"]}
_METADATA: Final = {
    "type": ["object", "null"],
    "additionalProperties": {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]},
}
_VECTORS: Final = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
_EMBEDDINGS: Final = {"oneOf": [_VECTORS, _STRINGS], "description": "Arrays of numbers, or base64 of float32."}
_UINT32: Final = {"type": ["integer", "null"], "minimum": 0, "maximum": 2**32 - 1}
_INCLUDE: Final = {
    "type": "array",
    "items": {"type": "string", "enum": ["distances", "documents", "embeddings", "metadatas", "uris"]},
}
_FILTERS: Final[dict[str, Any]] = {
    "where": {"type": ["object", "null"]},
    "where_document": {"type": ["object", "null"]},
}
_IDS: Final = {"type": ["array", "null"], "items": {"type": "string"}}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


CREATE_COLLECTION: Final = _object(
    ("name",),
    name={"type": "string"},
    metadata=_METADATA,
    configuration={"type": ["object", "null"]},
    schema={"type": ["object", "null"]},
    get_or_create={"type": "boolean"},
)
UPDATE_COLLECTION: Final = _object(
    new_name={"type": ["string", "null"]}, new_metadata=_METADATA, new_configuration={"type": ["object", "null"]}
)
_RECORDS: Final[dict[str, Any]] = {
    "ids": _STRINGS,
    "documents": _TEXTS,
    "metadatas": {"type": ["array", "null"], "items": _METADATA},
    "uris": _TEXTS,
}
ADD: Final = _object(("ids", "embeddings"), **_RECORDS, embeddings=_EMBEDDINGS)
UPDATE: Final = _object(("ids",), **_RECORDS, embeddings={"anyOf": [_EMBEDDINGS, {"type": "null"}]})
DELETE: Final = _object(ids=_IDS, **_FILTERS, limit=_UINT32)
GET: Final = _object(ids=_IDS, **_FILTERS, limit=_UINT32, offset=_UINT32, include=_INCLUDE)
QUERY: Final = _object(
    ("query_embeddings",), query_embeddings=_VECTORS, n_results=_UINT32, ids=_IDS, **_FILTERS, include=_INCLUDE
)

_ERROR: Final = _object(("error", "message"), error={"type": "string"}, message={"type": "string"})
_ERRORS: Final = {
    400: "InvalidArgumentError: the request is not valid",
    404: "NotFoundError: no such tenant, database or collection",
    409: "ChromaError: there is one of that name",
    413: "The body is too large",
    415: "ChromaError: the body is not JSON",
    422: "ChromaError: JSON of another shape",
    429: "RateLimitError: too much waits already",
    500: "InternalError",
    501: "ChromaError: a single-node server does not do this",
    503: "ChromaError: send the request again",
}
_PAGE: Final = {"limit": "The most to return; all if left out.", "offset": "How many to pass over first."}


@dataclass
class _Operation(Operation):
    """An operation of Chroma's protocol."""

    takes: ClassVar[Any] = None
    is_open: ClassVar[bool] = False

    def __post_init__(self) -> None:
        status = next(iter(self.responses or {}))
        json: dict[str, Any] = {"application/json": {"schema": {}}}
        success = {"description": "Chroma's answer.", "content": json}
        if not self.is_open:
            success["headers"] = COMMIT_HEADER_DOC
        documented: dict[str, Any] = {status: success}
        errors = dict(_ERRORS) if self.is_open else {401: "AuthError", 403: "AuthorizationError", **_ERRORS}
        for code, text in sorted(errors.items()):
            content = (
                {"text/plain": {"schema": {"type": "string"}}}
                if code == 413
                else {"application/json": {"schema": _ERROR}}
            )
            documented[str(code)] = {"description": text, "content": content}
        self.responses = cast(Any, documented)
        if self.operation_id and "list" in self.operation_id:
            number = Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=2**32 - 1)
            self.parameters = [
                *(self.parameters or []),
                *(
                    Parameter(name=name, param_in="query", schema=number, required=False, description=text)
                    for name, text in _PAGE.items()
                ),
            ]
        if self.takes is not None:
            body = {"required": True, "content": {"application/json": {"schema": self.takes}}}
            self.request_body = cast(Any, body)


def operation(*, takes: type[msgspec.Struct] | dict[str, Any] | None = None, is_open: bool = False) -> type[Operation]:
    """Return the ``operation_class`` of a route: the body that it ``takes``, and whether it is open without a token."""
    if isinstance(takes, type):
        (schema,), components = msgspec.json.schema_components([takes], ref_template="{name}")
        takes = components[schema["$ref"]]
    return type("Documented", (_Operation,), {"takes": takes, "is_open": is_open})
