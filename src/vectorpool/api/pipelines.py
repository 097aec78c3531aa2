"""How an avatar's documents are cut: read, choose, return to the settings."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Controller, Response, delete, get, put

from vectorpool import answers, commands
from vectorpool.api.bodies import decode_bounded
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.namespaces import Namespace, Ns
from vectorpool.api.requests import PipelineBody
from vectorpool.api.responses import respond
from vectorpool.api.scheduling import schedule_sync
from vectorpool.api.views import PipelineView
from vectorpool.commands import PipelineChoice
from vectorpool.errors import AvatarNotFound, MalformedJson, UserNotFound


def _avatar(namespace: Namespace) -> str:
    assert namespace.avatar_id is not None, "a pipeline is an avatar's"
    return namespace.avatar_id


def _view(request: Call, choice: PipelineChoice) -> PipelineView:
    pipeline = request.service.ingestor.pipeline(choice)
    return PipelineView(
        pipeline.strategy, pipeline.size.tokens, pipeline.size.overlap, request.service.embedder.name, choice
    )


class Pipelines(Controller):
    """The pipeline of an avatar."""

    path = "/pipeline"
    tags = ("documents",)

    @get(summary="Get how documents are cut", operation_class=documented(gives=PipelineView))
    async def get_pipeline(self, request: Call, namespace: Ns) -> Response[Any]:
        """Get how the avatar's documents are cut, and what was chosen for it."""
        try:
            answer = await request.execute(namespace.user_id, commands.GetPipeline(avatar_id=_avatar(namespace)))
        except (UserNotFound, AvatarNotFound) as error:
            return respond(_view(request, PipelineChoice()), commit=error.extra.get("commit", 0))
        choice = msgspec.json.decode(answer.body, type=PipelineChoice)
        return respond(_view(request, choice), commit=answer.commit)

    @put(
        status_code=200,
        summary="Choose how documents are cut",
        operation_class=documented(takes=PipelineBody, gives=PipelineView, problems=(MalformedJson,)),
    )
    async def put_pipeline(self, request: Call, namespace: Ns) -> Response[Any]:
        """Choose how the avatar's documents are cut, in place of what was chosen before.

        It is kept in the vectorstore, so a restore or fork brings it too. Documents are cut again in the background.
        """
        body = await decode_bounded(await request.body(), PipelineBody, request.service, namespace.user_id)
        choice = body.choice()
        if choice == PipelineChoice():
            # To choose nothing is to return to the settings.
            return await self._forget(request, namespace)
        command = commands.PutPipeline(avatar_id=_avatar(namespace), choice=choice)
        answer = await request.execute(namespace.user_id, command)
        schedule_sync(request, namespace.user_id, _avatar(namespace))
        return respond(_view(request, choice), commit=answer.commit)

    async def _forget(self, request: Call, namespace: Namespace) -> Response[Any]:
        command = commands.DeletePipeline(avatar_id=_avatar(namespace))
        try:
            commit = (await request.execute(namespace.user_id, command)).commit
            schedule_sync(request, namespace.user_id, _avatar(namespace))
        except UserNotFound as error:
            commit = error.extra.get("commit", 0)
        return respond(_view(request, PipelineChoice()), commit=commit)

    @delete(
        status_code=200,
        summary="Cut documents by the settings again",
        operation_class=documented(gives=answers.Deleted, problems=(UserNotFound,)),
    )
    async def delete_pipeline(self, request: Call, namespace: Ns) -> Response[Any]:
        """Return the avatar to the settings of the instance; answers 0 if nothing was chosen."""
        answer = await request.execute(namespace.user_id, commands.DeletePipeline(avatar_id=_avatar(namespace)))
        schedule_sync(request, namespace.user_id, _avatar(namespace))
        return respond(msgspec.json.decode(answer.body, type=answers.Deleted), commit=answer.commit)
