"""URLs at which the store itself takes a document: large files go there without passing through an instance."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Response, post

from vectorpool.api.bodies import decode_bounded
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.namespaces import Ns
from vectorpool.api.requests import UploadUrlBody
from vectorpool.api.responses import respond
from vectorpool.api.views import UploadUrl
from vectorpool.errors import DocumentConflict, InvalidId, MalformedJson, StoreUnavailable, UploadUrlUnavailable
from vectorpool.names import check_document_path
from vectorpool.sources import SYSTEM


class Uploads(Controller):
    """Upload URLs of an avatar's documents."""

    path = "/upload-urls"
    tags = ("documents",)

    @post(
        status_code=201,
        summary="Make an upload URL",
        operation_class=documented(
            takes=UploadUrlBody,
            gives=UploadUrl,
            problems=(MalformedJson, InvalidId, UploadUrlUnavailable, DocumentConflict, StoreUnavailable),
            with_commit=False,
        ),
    )
    async def make_upload_url(self, request: Call, namespace: Ns) -> Response[Any]:
        """Make a URL at which the store takes the bytes of one document, by PUT, without a token.

        Who has it can put that document until it expires, and nothing else. The bytes that it replaces are kept now, as
        a put here keeps them. The next ingest finds the document; one over ``max_document_bytes`` fails there.
        """
        body = await decode_bounded(await request.body(), UploadUrlBody, request.service, namespace.user_id)
        assert namespace.avatar_id is not None, "documents are an avatar's"
        path = check_document_path(body.path)
        signing = request.service.library.upload_url(namespace.user_id, namespace.avatar_id, path, body.expires_s)
        url = await request.context.within(signing)
        return respond(UploadUrl("PUT", url, SYSTEM.now_ms() + body.expires_s * 1000), status=201)
