"""The routes of workers: what a sync or a transfer sends, so that the instance that owns the user commits it.

They take that and nothing else, from a caller that may touch every user: the worker of this instance, by the key of
this start, or `vectorpool worker`, by a token. A command of a sync carries a document's records and its row of the
registry, hence one commit. An import is a directory, as a tar.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from litestar import Controller, Response, post, put

from vectorpool.api.bodies import body_of
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.durations import COMMAND_S, IMPORT_S
from vectorpool.api.namespaces import Ns, UserId
from vectorpool.api.problems import COMMIT_HEADER
from vectorpool.api.responses import respond
from vectorpool.api.transfers import TAR, take_import
from vectorpool.commands import (
    DiscardParts,
    FindChunks,
    Flush,
    ForgetDocument,
    GetPipeline,
    GetRecords,
    IngestDocument,
    ListIngested,
    SettleDocuments,
    StageChunks,
)
from vectorpool.errors import (
    Forbidden,
    InvalidRequest,
    LimitExceeded,
    MalformedJson,
    VectorpoolError,
    VectorstoreExists,
)
from vectorpool.jobs.service import MSGPACK
from vectorpool.names import check_user_id
from vectorpool.operating import Imported

_Taken = (
    ListIngested
    | FindChunks
    | GetPipeline
    | GetRecords
    | StageChunks
    | IngestDocument
    | ForgetDocument
    | SettleDocuments
    | DiscardParts
)
_decoder: Final = msgspec.msgpack.Decoder(_Taken)
_transfer_decoder: Final = msgspec.msgpack.Decoder(Flush)
_INLINE_BYTES: Final = 64 * 1024


class Workers(Controller):
    """What workers send."""

    path = ""
    tags = ("jobs",)

    @post(
        "/commands",
        status_code=200,
        summary="Execute a command of a worker",
        operation_class=documented(takes=MSGPACK, problems=(Forbidden, MalformedJson)),
    )
    async def execute_command(self, request: Call, namespace: Ns) -> Response[Any]:
        """Execute one command of a sync, as msgpack. For workers: the token must reach every user.

        The commands may change with any version. An error is msgpack too.
        """
        _check_worker(request)
        raw = await body_of(request)
        try:
            command = (
                await asyncio.to_thread(_decoder.decode, raw) if len(raw) > _INLINE_BYTES else _decoder.decode(raw)
            )
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedJson(f"The body is no command of a worker of this version: {error}.") from None
        if command.avatar_id != namespace.avatar_id:
            raise InvalidRequest("The command is for another avatar than the path's. Send it to its own path.")
        request.context.allow(COMMAND_S)
        try:
            answer = await request.execute(namespace.user_id, command)
        except VectorpoolError as error:
            return _refusal(error)
        return Response(answer.body, media_type="application/json", headers={COMMIT_HEADER: str(answer.commit)})


class TransferWorkers(Controller):
    """What workers send of exports and imports."""

    path = "/users/{user_id:str}"
    tags = ("jobs",)

    @post(
        "/commands",
        status_code=200,
        summary="Execute a command of a worker for a user",
        operation_class=documented(takes=MSGPACK, problems=(Forbidden, MalformedJson)),
    )
    async def execute_for_user(self, request: Call, user_id: UserId) -> Response[Any]:
        """Execute one command of an export, as msgpack. For workers: the token must reach every user.

        The commands may change with any version. An error is msgpack too.
        """
        check_user_id(user_id)
        _check_worker(request)
        raw = await body_of(request)
        try:
            command = _transfer_decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedJson(f"The body is no command of a worker of this version: {error}.") from None
        request.context.allow(COMMAND_S)
        try:
            answer = await request.execute(user_id, command)
        except VectorpoolError as error:
            return _refusal(error)
        return Response(answer.body, media_type="application/json", headers={COMMIT_HEADER: str(answer.commit)})

    @put(
        "/directory",
        status_code=201,
        summary="Commit the directory of an import",
        request_max_body_size=None,
        operation_class=documented(
            takes=TAR, gives=Imported, problems=(Forbidden, VectorstoreExists, InvalidRequest, LimitExceeded)
        ),
    )
    async def adopt_directory(self, request: Call, user_id: UserId) -> Response[Any]:
        """Make a tar of a plain Chroma directory the vectorstore of a user who has none. For workers.

        The directory is checked before it is opened. An error is msgpack.
        """
        check_user_id(user_id)
        _check_worker(request)
        request.context.allow(IMPORT_S)
        try:
            imported = await take_import(request, user_id)
        except VectorpoolError as error:
            return _refusal(error)
        return respond(imported, commit=imported.commit, status=201)


def _check_worker(request: Call) -> None:
    caller = request.caller
    if caller.users is not None or caller.avatars is not None or not caller.may_write:
        raise Forbidden("Only workers send this. Send a token that may touch every user and write.")


def _refusal(error: VectorpoolError) -> Response[Any]:
    return Response(msgspec.msgpack.encode(error.to_wire()), status_code=error.status, media_type=MSGPACK)
