"""The route of workers: a sync's commands, so that the instance that owns the user commits what a worker made.

It takes what a sync sends and nothing else, for the avatar in its path, from a caller that may touch every user: the
worker of this instance, by the key of this start, or `vectorpool worker`, by a token. A command carries a document's
records and its row of the registry, hence one commit.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from litestar import Controller, Response, post

from vectorpool.api.bodies import body_of
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.durations import COMMAND_S
from vectorpool.api.namespaces import Ns
from vectorpool.api.problems import COMMIT_HEADER
from vectorpool.commands import (
    DiscardParts,
    FindChunks,
    ForgetDocument,
    GetPipeline,
    GetRecords,
    IngestDocument,
    ListIngested,
    SettleDocuments,
    StageChunks,
)
from vectorpool.errors import Forbidden, InvalidRequest, MalformedJson, VectorpoolError
from vectorpool.jobs.service import MSGPACK

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
        caller = request.caller
        if caller.users is not None or caller.avatars is not None or not caller.may_write:
            raise Forbidden("Only workers send commands. Send a token that may touch every user and write.")
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
            return Response(msgspec.msgpack.encode(error.to_wire()), status_code=error.status, media_type=MSGPACK)
        return Response(answer.body, media_type="application/json", headers={COMMIT_HEADER: str(answer.commit)})
