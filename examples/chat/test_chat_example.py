"""The chat product, driven as its page drives it: people and avatars are apart, answers stream, sources are shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from tests.support.service import NAMED, START_S, Service, environment

FOLDER = Path(__file__).parent
LIBRARY = FOLDER.parent / "library"


@contextmanager
def product(service: Service, **env: str) -> Iterator[str]:
    """Run the product as its README says, on a free port, and return its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app:app", "--port", "0"],
        cwd=FOLDER,
        env=environment(VECTORPOOL_URL=service.url.rstrip("/"), NO_PROXY="*", no_proxy="*", **env),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.start()
    told = ""
    try:
        for line in process.stderr:
            told += line
            if found := re.search(r"running on (http://\S+)", line):
                break
        else:
            raise AssertionError(f"the product did not start: {told}")
        watchdog.cancel()
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[1]
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


@contextmanager
def person(url: str, name: str) -> Iterator[httpx.Client]:
    """Return the browser of a person who has signed in."""
    with httpx.Client(base_url=url, timeout=120, headers=NAMED, trust_env=False) as client:
        assert client.post(f"/session/{name}").status_code == 204
        yield client


def teach(client: httpx.Client, avatar: str, path: Path) -> httpx.Response:
    return client.put(f"/avatars/{avatar}/documents/{path.name}", content=path.read_bytes())


def ask(client: httpx.Client, avatar: str, text: str) -> list[tuple[str, Any]]:
    """Return the events of an answer."""
    with client.stream("POST", f"/avatars/{avatar}/chat", json={"text": text}) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        events = answer.read().decode().strip().split("\n\n")
    return [(name, json.loads(data)) for name, data in (re.findall(r"event: (\w+)\ndata: (.*)", e)[0] for e in events)]


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    """The product without a model."""
    with product(service, OPENAI_API_KEY="") as running:
        yield running


def test_an_avatar_answers_from_what_it_was_taught(url: str) -> None:
    """The first passage answers the question, it is shown as a source, and the answer is made of the sources."""
    with person(url, "anna") as anna:
        assert anna.get("/avatars").json() == []
        learned = teach(anna, "hut", LIBRARY / "booking.md")
        assert learned.status_code == 201 and learned.json()["path"] == "booking.md" and learned.json()["chunks"] > 1
        events = ask(anna, "hut", "What does a night cost?")
        assert anna.get("/avatars").json() == ["hut"]
    assert events[0][0] == "sources" and events[-1] == ("done", None)
    best = events[0][1][0]
    assert best["path"] == "booking.md" and "31 crowns" in best["text"] and best["start"] > 0
    pieces = [text for name, text in events if name == "piece"]
    assert pieces[0] == f"[1] {best['text']}\n\n" and len(pieces) == len(events[0][1])


def test_people_and_avatars_are_apart(url: str) -> None:
    """What one avatar was taught no other avatar tells, nor the same avatar of another person."""
    with person(url, "ben") as ben, person(url, "cleo") as cleo:
        assert teach(ben, "hut", LIBRARY / "emergency.md").status_code == 201
        assert teach(ben, "other", LIBRARY / "routes.md").status_code == 201
        assert teach(cleo, "hut", LIBRARY / "booking.md").status_code == 201
        for client, avatar, known in (
            (ben, "hut", "emergency.md"),
            (ben, "other", "routes.md"),
            (cleo, "hut", "booking.md"),
        ):
            sources = dict(ask(client, avatar, "How do I call for help?"))["sources"]
            assert {each["path"] for each in sources} == {known}


def test_refusals_are_shown_in_words(url: str) -> None:
    """A document that cannot be read, an avatar that is not there and a name that is none get an answer in words."""
    with person(url, "dora") as dora:
        broken = dora.put("/avatars/hut/documents/x.pdf", content=b"this is no PDF")
        assert broken.status_code == 422 and "pdf" in broken.json()["detail"]
        assert dora.put("/avatars/hut/documents/x.txt", content=bytes(11 * 2**20)).status_code == 413
        assert dora.post("/avatars/none/chat", json={"text": "?"}).status_code == 404
        assert dora.post("/avatars/hut/chat", json={"text": ""}).status_code == 422
        assert "Chat with avatars" in dora.get("/").text
        assert httpx.get(f"{url}/avatars", headers={"cookie": "person=../admin"}, trust_env=False).status_code == 422


class Model(BaseHTTPRequestHandler):
    """An endpoint of OpenAI's protocol that streams how many passages it got, and remembers what it was asked."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append({**body, "path": self.path, "key": self.headers["authorization"]})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for text in ("31 ", "crowns ", "[1]"):
            chunk = {"choices": [{"delta": {"content": text}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_model_writes_the_answer_from_the_passages(service: Service) -> None:
    """With a key, the model gets the numbered passages and the question, and its pieces are passed on as they come."""
    model = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{model.server_address[1]}/v1"
    try:
        with (
            product(service, OPENAI_API_KEY="key", OPENAI_BASE_URL=endpoint, OPENAI_MODEL="m") as url,
            person(url, "emil") as emil,
        ):
            assert teach(emil, "hut", LIBRARY / "booking.md").status_code == 201
            events = ask(emil, "hut", "What does a night cost?")
            model.shutdown()
            model.server_close()
            failed = ask(emil, "hut", "What does a night cost?")
    finally:
        model.server_close()
    assert [text for name, text in events if name == "piece"] == ["31 ", "crowns ", "[1]"]
    (asked,) = Model.asked
    assert (asked["path"], asked["key"], asked["model"]) == ("/v1/chat/completions", "Bearer key", "m")
    assert "[1] ## What it costs" in asked["messages"][1]["content"] and asked["messages"][0]["content"].startswith(
        "You are hut"
    )
    # A model that is away is said so, and the sources are there all the same.
    assert [name for name, _ in failed] == ["sources", "failed", "done"]
