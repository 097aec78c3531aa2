"""Milvus's own client: a connection to a server, or to a folder that Milvus Lite opens in this process.

Milvus Lite is a server in threads. It listens on a socket in a private folder, since on a port every user of the
machine could read what is exported; its folder has one opener at a time, and others wait. The client writes errors
with tracebacks to a log, and all of them are raised as well, so its log is off.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import grpc

from vectorpool.errors import TargetRefused, TargetUnavailable
from vectorpool.targets.urls import Target

_before: Final = frozenset(os.environ)
try:
    from pymilvus import DataType, MilvusClient, MilvusException
finally:
    # The client reads a file .env of any folder above it, or of the working directory, into the environment.
    for _name in os.environ.keys() - _before:
        del os.environ[_name]
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

_PORT: Final = 19530
_CONNECT_S: Final = 10.0
_CALL_S: Final = 120.0
# How long an export waits for another one that has the folder open.
_WAIT_S: Final = 60.0
_POLL_S: Final = 0.1
_STOP_S: Final = 10.0
# Rows of one answer: a server gives no more.
_KEYS_AT_ONCE: Final = 16_384
# Codes of Milvus for what passes: not ready, no memory or disk, too many requests, nodes and storage that fail.
_PASSING: Final = (range(1, 6), range(7, 13), range(400, 600), range(900, 1100), range(65_535, 65_536))
_PASSING_RPC: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


def is_folder(target: Target) -> bool:
    """Return whether Milvus Lite opens the target."""
    return target.parts.scheme == "milvus"


def folder(target: Target) -> Path:
    """Return the folder that Milvus Lite opens."""
    return Path(unquote(target.parts.netloc + target.parts.path))


class Field(NamedTuple):
    """A field of a collection; ``kind`` and ``options`` are the client's."""

    name: str
    kind: str
    options: dict[str, Any]


@contextmanager
def told(target: Target) -> Iterator[None]:
    """Raise what the client raises as TargetRefused or TargetUnavailable, without credentials."""
    try:
        yield
    except MilvusException as error:
        # The client says of every failed connection that the server may be away; the server's own word is beneath.
        told_by = next((each for each in (error.__cause__, error.__context__) if isinstance(each, grpc.Call)), None)
        if told_by is not None:
            raise _error(target, told_by.code(), told_by.details() or str(error.message)) from None
        raise _error(target, error.code, str(error.message)) from None
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
        text = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
        raise _error(target, code, text) from None


def _error(target: Target, code: Any, text: str) -> TargetRefused | TargetUnavailable:
    is_passing = code in _PASSING_RPC or (isinstance(code, int) and any(code in each for each in _PASSING))
    shown = f"{getattr(code, 'name', code)}: {target.clean(text)}"
    if is_passing:
        return TargetUnavailable(f"{target.shown} fails: {shown}.")
    return TargetRefused(f"{target.shown} refuses: {shown}.")


class Connection:
    """An open target. Raises TargetRefused, TargetUnavailable."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lite = _Lite(target) if is_folder(target) else None
        self._loaded: set[str] = set()
        try:
            with told(target):
                self.client: Any = MilvusClient(
                    _address(target) if self._lite is None else self._lite.address,
                    token=_token(target),
                    db_name=unquote(target.parts.path.strip("/")) if self._lite is None else "",
                    timeout=_CONNECT_S,
                )
        except BaseException:
            if self._lite is not None:
                self._lite.close()
            raise

    def close(self) -> None:
        """Close the connection, and the folder for others."""
        try:
            self.client.close()
        finally:
            if self._lite is not None:
                self._lite.close()

    def call(self, verb: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of the client, within a bound of time."""
        with told(self.target):
            return getattr(self.client, verb)(*arguments, timeout=_CALL_S, **named)

    def is_there(self, name: str) -> bool:
        """Return whether a collection is there."""
        return bool(self.call("has_collection", name))

    def check_database(self) -> None:
        """Raise TargetRefused if the database is not there: of such a one a server says that it has no collection."""
        if self._lite is None and self.target.parts.path.strip("/"):
            self.call("list_collections")

    def create(self, name: str, fields: Sequence[Field], metric: str) -> None:
        """Create a collection whose reads see every earlier write. The vector's field is named ``vector``."""
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        for field in fields:
            options = {
                name: DataType[value] if name == "element_type" else value for name, value in field.options.items()
            }
            schema.add_field(field.name, DataType[field.kind], **options)
        index = self.client.prepare_index_params()
        # Milvus Lite would build a graph over all vectors each time that it is closed.
        index.add_index("vector", index_type="AUTOINDEX" if self._lite is None else "FLAT", metric_type=metric)
        self.call("create_collection", name, schema=schema, index_params=index, consistency_level="Strong")

    def drop(self, name: str) -> None:
        """Drop a collection, if it is there."""
        self._loaded.discard(name)
        if self.is_there(name):
            self.call("drop_collection", name)

    def count(self, name: str) -> int:
        """Return how many rows a collection has."""
        self._load(name)
        return int(self.call("query", name, filter="", output_fields=["count(*)"])[0]["count(*)"])

    def keys(self, name: str) -> list[str]:
        """Return the primary keys of a collection, in order."""
        self._load(name)
        found: list[str] = []
        with told(self.target):
            pages = self.client.query_iterator(name, _KEYS_AT_ONCE, output_fields=["key"], timeout=_CALL_S)
            try:
                while page := pages.next():
                    found.extend(row["key"] for row in page)
            finally:
                pages.close()
        return found

    def rows(self, name: str, keys: Sequence[str], fields: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of some keys, in the order of the keys."""
        self._load(name)
        found = {row["key"]: row for row in self.call("query", name, ids=list(keys), output_fields=["key", *fields])}
        if len(found) != len(keys):
            raise TargetUnavailable(f"{self.target.shown} was changed while it was read. Try again.")
        return [found[key] for key in keys]

    def _load(self, name: str) -> None:
        # A query needs the collection in memory, where Milvus Lite never has it after it was opened.
        if name not in self._loaded:
            self.call("load_collection", name)
            self._loaded.add(name)


class _Lite:
    """Milvus Lite over a folder."""

    def __init__(self, target: Target) -> None:
        # Only here: a server needs no library for folders.
        from milvus_lite.adapter.grpc.server import start_server_in_thread  # noqa: PLC0415
        from milvus_lite.exceptions import DataDirLockedError, MilvusLiteError  # noqa: PLC0415

        logging.getLogger("milvus_lite").setLevel(logging.CRITICAL)
        path, until = folder(target), time.monotonic() + _WAIT_S
        self._sockets = tempfile.mkdtemp(prefix="vectorpool-milvus-")
        try:
            while True:
                try:
                    # A port is appended to whatever the host is.
                    opened = start_server_in_thread(str(path), host=f"unix:{self._sockets}/lite", port=0)
                    break
                except DataDirLockedError:
                    if time.monotonic() > until:
                        raise TargetUnavailable(
                            f"{target.shown} is open elsewhere: Milvus Lite lets one program at a time in. "
                            "Close the other one, or try again later."
                        ) from None
                    time.sleep(_POLL_S)
                except (OSError, ValueError, MilvusLiteError) as error:
                    raise TargetRefused(f"{target.shown} refuses: {target.clean(str(error))}.") from None
        except BaseException:
            shutil.rmtree(self._sockets, ignore_errors=True)
            raise
        self._server, self._db, _ = opened
        self.address = f"unix:{self._sockets}/lite:0"

    def close(self) -> None:
        """Stop the server, and give the folder free."""
        self._server.stop(grace=_STOP_S).wait(2 * _STOP_S)
        self._db.close()
        shutil.rmtree(self._sockets, ignore_errors=True)


def _address(target: Target) -> str:
    parts = target.parts
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{parts.scheme.partition('+')[2]}://{host}:{parts.port or _PORT}"


def _token(target: Target) -> str:
    user = unquote(target.parts.username or "")
    return f"{user}:{target.password}" if user and target.password else target.password or user
