"""A server that answers as OpenAI's API does, for products that ask a model: vectors of words, memories for mem0.

Nothing of it understands a text: a vector counts words, and the memory of a message is the message.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DIMENSION = 64


def vector(text: str) -> list[float]:
    """Return float[64], how often the words of each of 64 kinds are in a text."""
    counts = [0.0] * DIMENSION
    for word in re.findall(r"\w+", text.lower()):
        counts[hashlib.sha256(word.encode()).digest()[0] % DIMENSION] += 1
    return counts


def embeddings(asked: dict[str, Any]) -> dict[str, Any]:
    """Answer POST /v1/embeddings."""
    texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
    data = [{"object": "embedding", "index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
    return {"object": "list", "model": asked["model"], "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def completion(asked: dict[str, Any]) -> dict[str, Any]:
    """Answer POST /v1/chat/completions: what mem0's prompt has under its new messages is the memory."""
    said = re.findall(r"^user: (.+)$", asked["messages"][-1]["content"].partition("## New Messages")[2], re.MULTILINE)
    memory = [{"id": str(at), "text": text, "attributed_to": "user"} for at, text in enumerate(said)]
    message = {"role": "assistant", "content": json.dumps({"memory": memory})}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "none", "choices": [choice], "usage": usage}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(embeddings(asked) if self.path.endswith("/embeddings") else completion(asked)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def openai_standin() -> Iterator[str]:
    """Give the base URL of the API."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()
