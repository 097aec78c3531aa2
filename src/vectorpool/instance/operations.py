"""What the handles ask: each function returns a call of the native API and the struct of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from vectorpool import answers
from vectorpool.errors import UNDECODABLE, ErrorWire, InvalidRequest, VectorpoolError
from vectorpool.instance.runner import Call, Reply
from vectorpool.kept_documents import KeptSize

T = TypeVar("T")

_JSON = ((b"content-type", b"application/json"),)
_PROBLEM_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code"})


class UserInfo(msgspec.Struct, frozen=True):
    """What is stored for a user, the last commit, where the vectorstore is, and what is kept of former documents."""

    user_id: str
    commit: int
    stored: answers.Vectorstore
    residency: answers.Residency
    kept: KeptSize = KeptSize()


class Operation(msgspec.Struct, Generic[T], frozen=True):
    """A call, and how to read its answer."""

    call: Call
    read: Callable[[Reply], T]

    def result(self, reply: Reply) -> T:
        """Return the answer, or raise the error that the reply carries, as the class that it has in the service."""
        if reply.status < 400:
            return self.read(reply)
        try:
            problem = msgspec.json.decode(reply.body, type=dict[str, Any])
        except UNDECODABLE:
            problem = {}
        after = reply.header(b"retry-after")
        raise VectorpoolError.from_wire(
            ErrorWire(
                code=str(problem.get("code", "internal-error")),
                detail=str(problem.get("detail", f"The instance answered {reply.status}.")),
                retry_after_s=None if after is None else float(after),
                extra={name: value for name, value in problem.items() if name not in _PROBLEM_MEMBERS},
            )
        )


def path_of(*segments: str) -> str:
    """Return a path of segments, percent-encoded. Raises InvalidRequest for a segment that no path can hold."""
    for segment in segments:
        if not isinstance(segment, str) or segment in ("", ".", ".."):
            raise InvalidRequest(f"{segment!r} names nothing. Use text that is not empty, '.' or '..'.")
    try:
        return "".join(f"/{quote(segment, safe='')}" for segment in segments)
    except UnicodeEncodeError:
        raise InvalidRequest("A name holds half a surrogate pair, which is no text. Encode it properly.") from None


def document_path(path: str) -> str:
    """Return the path of a document below ``/documents``: its slashes separate segments."""
    return path_of(*path.split("/"))


def ask(
    method: str,
    path: str,
    shape: type[T],
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
) -> Operation[T]:
    """Return an operation whose body and answer are JSON. Members that are None are left out."""
    content = b"" if body is None else _encoded({name: value for name, value in body.items() if value is not None})
    given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
    target = f"{path}?{urlencode(given)}" if given else path
    call = Call(method, target, content, _JSON if content else ())
    return Operation(call, lambda reply: msgspec.json.decode(reply.body, type=shape))


def put_bytes(path: str, data: bytes, shape: type[T]) -> Operation[T]:
    """Return an operation that sends bytes as they are."""
    call = Call("PUT", path, bytes(data), ((b"content-type", b"application/octet-stream"),))
    return Operation(call, lambda reply: msgspec.json.decode(reply.body, type=shape))


def get_bytes(path: str) -> Operation[bytes]:
    """Return an operation whose answer is bytes."""
    return Operation(Call("GET", path), lambda reply: reply.body)


def records_of(
    ids: Sequence[str],
    documents: Sequence[str | None] | None,
    embeddings: Iterable[Any] | None,
    metadatas: Sequence[Mapping[str, Any] | None] | None,
    uris: Sequence[str | None] | None,
) -> dict[str, Any]:
    """Return columns as the body of a write. Raises InvalidRequest if they differ in length."""
    ids = [ids] if isinstance(ids, str) else list(ids)
    records: list[dict[str, Any]] = [{"id": one} for one in ids]
    columns = {"document": documents, "embedding": embeddings, "metadata": metadatas, "uri": uris}
    for name, column in columns.items():
        if column is None:
            continue
        values = list(column)
        if len(values) != len(records):
            raise InvalidRequest(f"There are {len(records)} ids and {len(values)} {name}s. Give one for each id.")
        for record, value in zip(records, values, strict=True):
            if value is not None:
                record[name] = value
    return {"records": records}


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except (TypeError, UnicodeEncodeError, RecursionError, OverflowError) as error:
        raise InvalidRequest(f"The arguments cannot be sent: {error}. Use text, numbers, lists and dicts.") from None


def _plain(value: Any) -> Any:
    # NumPy's arrays and numbers, and whatever else has the same method.
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
