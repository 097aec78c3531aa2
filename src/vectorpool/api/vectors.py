"""Vectors alone: texts are embedded and nothing is stored."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from litestar import Controller, Response, post

from vectorpool.allowances.allowances import counted_as
from vectorpool.api.bodies import decode_bounded
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.requests import EmbedBody
from vectorpool.api.views import Embeddings
from vectorpool.bounds import EMBED_CHARACTERS, EMBED_TEXTS
from vectorpool.checks import check_text
from vectorpool.documents.chunking import Chunk
from vectorpool.errors import EmbedderUnavailable, InvalidRequest, LimitExceeded, MalformedJson, QueueFull
from vectorpool.extraction.extracts import Extract, Section

# Rows of an answer that are written in one step, which holds the interpreter lock.
_ROWS = 64


def _answer(name: str, vectors: npt.NDArray[np.float32], chunks: list[Chunk] | None) -> bytes:
    """Return the JSON of ``Embeddings``. Blocking."""
    rows = []
    for start in range(0, len(vectors), _ROWS):
        part = orjson.dumps(vectors[start : start + _ROWS], option=orjson.OPT_SERIALIZE_NUMPY)
        rows.append(part.removeprefix(b"[").removesuffix(b"]"))
    head = {"embedder": name, "dimension": vectors.shape[1]}
    members = orjson.dumps(head).removesuffix(b"}") + b',"embeddings":[' + b",".join(rows) + b"]"
    if chunks is None:
        return members + b"}"
    shown = [{"text": c.text, "start": c.start, "end": c.end, "heading": c.heading} for c in chunks]
    return members + b',"chunks":' + orjson.dumps(shown) + b"}"


class Vectors(Controller):
    """The embedder by itself."""

    path = "/embed"
    tags = ("embedding",)

    @post(
        status_code=200,
        summary="Embed texts",
        operation_class=documented(
            takes=EmbedBody,
            gives=Embeddings,
            problems=(MalformedJson, InvalidRequest, LimitExceeded, QueueFull, EmbedderUnavailable),
            with_commit=False,
        ),
    )
    async def embed_texts(self, request: Call) -> Response[Any]:
        """Embed texts, or the chunks of one text, with the model of the instance. Nothing is stored.

        Every token that opens a user's data may ask. Its texts take turns with those of users, as one user's. What is
        longer than the model reads does not change its vector; ``text`` is cut into chunks that it reads whole.
        """
        service = request.service
        who = counted_as(None, request.context.caller)
        body = await decode_bounded(await request.body(), EmbedBody, service, who)
        if (body.text is None) == (not body.texts):
            raise InvalidRequest(
                "There is nothing to embed, or too much. Send exactly one of text and texts, not empty."
            )
        if body.pipeline is not None and body.text is None:
            raise InvalidRequest("texts are embedded as they are. Send text to have it cut, or leave pipeline out.")
        chunks: list[Chunk] | None = None
        if body.text is not None:
            text = body.text
            EMBED_CHARACTERS.check(len(text), "The text")
            check_text("The text", text)
            pipeline = service.ingestor.pipeline(body.pipeline.choice() if body.pipeline is not None else None)
            extract = Extract(text, (Section(0, len(text)),))
            chunks = await request.context.within(asyncio.to_thread(pipeline.cut, extract))
            if not chunks:
                raise InvalidRequest("The text is blank. Send one with words.")
            texts = [chunk.text for chunk in chunks]
        else:
            texts = list(body.texts or ())
            EMBED_CHARACTERS.check(sum(map(len, texts)))
            for number, one in enumerate(texts):
                check_text(f"texts[{number}]", one)
        EMBED_TEXTS.check(len(texts))
        vectors = await request.context.within(service.embedder.embed(texts, who))
        content = await asyncio.to_thread(_answer, service.embedder.name, vectors, chunks)
        return Response(content=content, status_code=200, media_type="application/json")
