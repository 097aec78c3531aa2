"""A chat product with avatars: each person has assistants with a knowledge of their own, and answers show sources.

The product knows who is asking, and asks vectorpool for the passages of that person's avatar only. A language model
writes the answer from the passages, as a stream. Without a model's key the passages themselves are the answer, so that
everything but the model can be tried.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from fastapi import Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field

SERVICE = os.environ.get("VECTORPOOL_URL", "http://localhost:8000")
# A token that may touch every user. Only this program has it; people's browsers never see it.
TOKEN = os.environ.get("VECTORPOOL_TOKEN", "")
# Any endpoint that speaks OpenAI's chat completions. Without a key, no model is asked.
MODEL_URL = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
MODEL_KEY = os.environ.get("OPENAI_API_KEY", "")
MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
PASSAGES = 4
MAX_DOCUMENT_BYTES = 10 * 2**20
PAGE = Path(__file__).with_name("page.html")

INSTRUCTION = (
    "You are {avatar}. Answer only from the numbered passages, and name them like [1]. "
    "If they do not answer the question, say so."
)


class Question(BaseModel):
    """What a person asks an avatar."""

    text: str = Field(min_length=1, max_length=2000)


@asynccontextmanager
async def clients(app: FastAPI) -> AsyncIterator[None]:
    """Keep one client for vectorpool and one for the model, with bounds, as long as the product runs."""
    headers = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
    async with (
        httpx.AsyncClient(base_url=SERVICE, headers=headers, timeout=60) as app.state.vectorpool,
        httpx.AsyncClient(
            base_url=MODEL_URL, headers={"Authorization": f"Bearer {MODEL_KEY}"}, timeout=60
        ) as app.state.model,
    ):
        yield


app = FastAPI(title="Chat with avatars", lifespan=clients)


def person(person: Annotated[str, Cookie(pattern=r"^[a-z0-9-]{1,40}$")] = "guest") -> str:
    """Return who asks. A real product takes this from its own session; here a cookie says it."""
    return person


Person = Annotated[str, Depends(person)]


async def ask_service(request: Request, method: str, path: str, **body: Any) -> httpx.Response:
    """Send a request to vectorpool. A refusal that passes is tried again; others are passed on in its words."""
    client: httpx.AsyncClient = request.app.state.vectorpool
    for attempt in range(3):
        try:
            answer = await client.request(method, path, **body)
        except httpx.TransportError as error:
            raise HTTPException(503, f"vectorpool does not answer at {SERVICE}: {error}") from None
        if answer.status_code not in (429, 503) or attempt == 2:
            break
        await asyncio.sleep(min(float(answer.headers.get("retry-after", 1)), 5))
    if answer.is_error:
        raise HTTPException(answer.status_code, answer.json().get("detail", "vectorpool refused the request."))
    return answer


@app.get("/")
async def page() -> FileResponse:
    """Show the page."""
    return FileResponse(PAGE)


@app.get("/avatars")
async def avatars(request: Request, who: Person) -> Any:
    """List the ids of the person's avatars. A person without any has an empty list, and no error."""
    try:
        listed = (await ask_service(request, "GET", f"/users/{who}/avatars")).json()["avatars"]
    except HTTPException as refused:
        if refused.status_code == 404:
            return []
        raise
    return [each["avatar_id"] for each in listed]


@app.put("/avatars/{avatar}/documents/{name}", status_code=201)
async def teach(request: Request, avatar: str, name: str, who: Person) -> Any:
    """Give an avatar a document, the body of the request, and wait until it knows it."""
    document = bytearray()
    async for part in request.stream():
        document += part
        if len(document) > MAX_DOCUMENT_BYTES:
            raise HTTPException(413, f"A document has at most {MAX_DOCUMENT_BYTES} bytes here.")
    place = f"/users/{who}/avatars/{quote(avatar, safe='')}"
    await ask_service(request, "PUT", f"{place}/documents/{quote(name, safe='')}", content=bytes(document))
    job = (await ask_service(request, "POST", f"{place}/ingest", params={"wait_s": 60}, json={"paths": [name]})).json()
    if job["state"] != "done" or not job["documents"]:
        raise HTTPException(503, f"The document is stored, and its ingest is {job['state']}. Ask again in a while.")
    (outcome,) = job["documents"]
    if outcome["status"] == "failed":
        raise HTTPException(422, outcome["reason"])
    return outcome


@app.post("/avatars/{avatar}/chat")
async def chat(request: Request, avatar: str, question: Question, who: Person) -> StreamingResponse:
    """Answer a question as server-sent events: first the sources, then pieces of the answer, then the end."""
    body = {"text": question.text, "n_results": PASSAGES}
    path = f"/users/{who}/avatars/{quote(avatar, safe='')}/query"
    found = (await ask_service(request, "POST", path, json=body)).json()["results"][0]

    async def events() -> AsyncIterator[str]:
        yield _event(
            "sources", [{"path": each["path"], "start": each["start"], "text": each["text"]} for each in found]
        )
        try:
            async for piece in pieces(request.app.state.model, avatar, question.text, found):
                yield _event("piece", piece)
        except httpx.HTTPError as error:
            yield _event("failed", f"The model does not answer: {error}")
        yield _event("done", None)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def pieces(
    model: httpx.AsyncClient, avatar: str, question: str, found: list[dict[str, Any]]
) -> AsyncIterator[str]:
    """Return the answer piece by piece: the model's, or the passages themselves if no model has a key."""
    if not found:
        yield "I know nothing about that yet. Give me a document."
        return
    if not MODEL_KEY:
        for number, passage in enumerate(found, 1):
            yield f"[{number}] {passage['text']}\n\n"
        return
    passages = "\n\n".join(f"[{number}] {passage['text']}" for number, passage in enumerate(found, 1))
    messages = [
        {"role": "system", "content": INSTRUCTION.format(avatar=avatar)},
        {"role": "user", "content": f"{passages}\n\nQuestion: {question}"},
    ]
    asked = {"model": MODEL, "messages": messages, "stream": True}
    async with model.stream("POST", "chat/completions", json=asked) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            if data == line or data == "[DONE]":
                continue
            for choice in json.loads(data)["choices"]:
                if text := choice["delta"].get("content"):
                    yield text


@app.post("/session/{name}", status_code=204)
async def sign_in(name: str) -> Response:
    """Say who asks. It stands for the sign-in of a real product."""
    answer = Response(status_code=204)
    answer.set_cookie("person", name, httponly=True, samesite="strict")
    return answer
