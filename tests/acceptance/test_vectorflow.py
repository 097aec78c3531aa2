"""VectorFlow's own Python client, unmodified, against a served instance; and the direct route of the native API."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from vectorflow_client.chunk_strategy import ChunkStrategy
from vectorflow_client.embeddings import Embeddings
from vectorflow_client.vectorflow import Vectorflow

from tests.support.service import Service
from vectorpool.webhooks.signatures import is_genuine

HOME = "/users/42/avatars/7"
TOKEN = "a-token-of-user-42"
SECRET = "what receivers know"


class Receiver(BaseHTTPRequestHandler):
    """Takes webhooks, keeps chunks that name a number, serves one file; answers as ``statuses`` say."""

    got: list[tuple[str, dict[str, str], bytes]]
    statuses: list[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.got.append((self.path, dict(self.headers.items()), body))
        answer = b"{}"
        if self.path == "/valid":
            answer = json.dumps(
                {"valid_chunks": [c for c in json.loads(body)["chunks"] if "two" in c["text"]]}
            ).encode()
        self._answer(self.statuses.pop() if self.statuses and self.path != "/valid" else 200, answer)

    def do_GET(self) -> None:
        self._answer(200, b"The fetched text is of the presigned URL.")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[str]:
    Receiver.got, Receiver.statuses = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("vectorflow")
    tokens = root / "tokens.toml"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens.write_text(f'[tokens.flow]\nsha256 = "{digest}"\nusers = ["42"]\n')
    tokens.chmod(0o600)
    env = {"VECTORPOOL_WEBHOOK_SECRET": SECRET, "VECTORPOOL_WEBHOOK_NETWORKS": "127.0.0.1"}
    made = Service(root, "--shards", "1", "--tokens-file", str(tokens), env=env).start()
    made.client.headers["authorization"] = f"Bearer {TOKEN}"
    yield made
    made.close()


@pytest.fixture
def client(service: Service) -> Any:
    made = Vectorflow()
    made.base_url = f"{service.client.base_url}".rstrip("/") + f"/vectorflow{HOME}"
    made.internal_api_key = TOKEN
    return made


def ended(ask: Callable[[], str]) -> str:
    end = time.monotonic() + 120
    while (state := ask()) in ("NOT_STARTED", "IN_PROGRESS"):
        assert time.monotonic() < end
        time.sleep(0.1)
    return state


def passages(service: Service, path: str) -> list[Any]:
    return list(service.ok("GET", f"{HOME}/documents/{path}?chunks=true").json()["passages"])


def test_files_are_embedded_and_their_states_shown(service: Service, client: Any, tmp_path: Path) -> None:
    """``embed``, ``upload``, ``get_job_status`` and ``get_job_statuses`` return what the client's README says."""
    one, two, film = tmp_path / "one.md", tmp_path / "two.txt", tmp_path / "film.mp4"
    one.write_text("# One\n\nThe first text.")
    two.write_text("The second text.")
    film.write_bytes(bytes(100))
    embedded = client.embed(str(one))
    assert (embedded.status_code, embedded.error) == (200, None)
    assert "Successfully added" in embedded.message and isinstance(embedded.job_id, int)
    uploaded = client.upload([str(one), str(two), str(film), str(two)])
    assert uploaded.status_code == 200
    assert {job.filename for job in uploaded.successful_uploads} == {"one.md", "two.txt"}
    assert (uploaded.failed_uploads, uploaded.duplicate_files_count, uploaded.empty_files_count) == (["film.mp4"], 1, 0)
    numbers = [embedded.job_id, *(job.job_id for job in uploaded.successful_uploads)]
    assert ended(lambda: client.get_job_status(numbers[-1]).job_status) == "COMPLETED"
    assert ended(lambda: client.get_job_status(numbers[0]).job_status) == "COMPLETED"
    found = client.get_job_statuses(numbers)
    assert {job.job_id for job in found.jobs} == set(numbers)
    assert [each["text"] for each in passages(service, "two.txt")] == ["The second text."]


def test_errors_are_those_of_the_protocol(client: Any, tmp_path: Path) -> None:
    """The client finds ``error`` in every refusal: of a token, of a job that is not there, of an address inside."""
    file = tmp_path / "one.md"
    file.write_text("Text.")
    assert client.get_job_status(1).status_code == 404 and client.get_job_status(1).error
    client.webhook_url, client.webhook_key = "http://169.254.169.254/latest", "k"
    refused = client.embed(str(file))
    assert refused.status_code == 400 and "private" in refused.error
    client.webhook_url, client.internal_api_key = None, "another"
    assert client.embed(str(file)).status_code == 401
    client.internal_api_key, client.base_url = TOKEN, client.base_url.replace("/42/", "/43/")
    assert client.embed(str(file)).status_code == 403


def test_the_header_of_vectorflow_is_a_token_below_its_path_only(service: Service) -> None:
    """``VectorFlowKey`` on each route: the right one is let in, a wrong one, one of another user, and two are not."""
    form = {"SourceData": ("keyed.md", b"Text.")}, {"EmbeddingsMetadata": "{}"}
    named = {"PreSignedURL": "users/42/avatars/7/vectorstore_data/keyed.md"} | form[1]
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "embed", {"files": form[0], "data": form[1]}),
        ("POST", "jobs", {"files": {"file": ("keyed.md", b"Text.")}, "data": form[1]}),
        ("GET", "jobs/1/status", {}),
        ("POST", "jobs/status", {"json": {"JobIDs": [1]}}),
        ("POST", "s3", {"files": {name: (None, value) for name, value in named.items()}}),
    ]
    right, wrong = {"VectorFlowKey": TOKEN}, {"VectorFlowKey": "another"}

    def status(method: str, path: str, headers: dict[str, str], **arguments: Any) -> int:
        url = f"{service.client.base_url}".rstrip("/") + path
        return httpx.request(method, url, headers=headers, timeout=60, **arguments).status_code

    for method, route, arguments in asked:
        mine, foreign = f"/vectorflow{HOME}/{route}", f"/vectorflow{HOME.replace('42', '43')}/{route}"
        assert status(method, mine, right, **arguments) == (404 if route.endswith("status") else 200), route
        assert status(method, mine, wrong, **arguments) == 401, route
        assert status(method, mine, {}, **arguments) == 401, route
        assert status(method, foreign, right, **arguments) == 403, route
        assert status(method, mine, right | {"Authorization": "another"}, **arguments) == 401, route
        assert status(method, mine, right | {"Authorization": TOKEN}, **arguments) in (200, 404), route
    # Elsewhere it is no token.
    assert status("GET", f"{HOME}/documents", right) == 401


def test_a_webhook_gets_the_chunks_with_vectors_and_a_validation_picks_them(
    service: Service, client: Any, receiver: str, tmp_path: Path
) -> None:
    """It is signed, sent again after an error, names the document, and has what was committed and nothing else."""
    file = tmp_path / "picked.md"
    file.write_text("# One\n\nThis section is one.\n\n# Two\n\nThis section is two.\n")
    Receiver.got.clear()
    Receiver.statuses[:] = [503]
    client.embeddings = Embeddings(chunk_size=64, chunk_overlap=0, chunk_strategy=ChunkStrategy.PARAGRAPH)
    client.webhook_url, client.webhook_key = f"{receiver}/hook", "the key"
    client.chunk_validation_url, client.document_id = f"{receiver}/valid", "document 9"
    number = client.embed(str(file)).job_id
    assert ended(lambda: client.get_job_status(number).job_status) == "COMPLETED"
    (kept,) = passages(service, "picked.md")
    assert "two" in kept["text"]
    hooks = [each for each in Receiver.got if each[0] == "/hook"]
    assert len(hooks) == 2
    _, headers, body = hooks[-1]
    assert is_genuine(SECRET, headers, body, int(time.time()))
    assert headers["X-Embeddings-Webhook-Key"] == "the key"
    sent = json.loads(body)
    assert (sent["DocumentID"], sent["JobID"]) == ("document 9", number)
    assert [(each["text"], len(each["vector"])) for each in sent["Embeddings"]] == [(kept["text"], 384)]


def test_a_webhook_that_refuses_fails_the_job_and_a_retry_sends_again(
    service: Service, client: Any, receiver: str, tmp_path: Path
) -> None:
    """The reason stays with the job; the records are there; what is retried is the message."""
    file = tmp_path / "refused.md"
    file.write_text("A text whose webhook refuses it once.")
    Receiver.got.clear()
    Receiver.statuses[:] = [410]
    client.webhook_url, client.webhook_key = f"{receiver}/hook", "k"
    number = client.embed(str(file)).job_id
    assert ended(lambda: client.get_job_status(number).job_status) == "FAILED"
    (job,) = [job for job in service.ok("GET", "/users/42/jobs").json()["jobs"] if job.get("number") == number]
    assert (job["code"], job["state"]) == ("webhook-undelivered", "failed") and "410" in job["reason"]
    assert len(passages(service, "refused.md")) == 1
    assert service.request("POST", f"/users/42/jobs/{job['job_id']}/retry").status_code == 202
    assert ended(lambda: client.get_job_status(number).job_status) == "COMPLETED"
    assert len(Receiver.got) == 2


def test_an_object_is_taken_by_url_or_key(service: Service, receiver: str) -> None:
    """A presigned URL is fetched, a key must be one of the avatar's own documents."""
    route = f"/vectorflow{HOME}/s3"
    fields = {"EmbeddingsMetadata": (None, json.dumps({"chunk_size": 100})), "VectorDBMetadata": (None, "{}")}

    def post(name: str) -> Any:
        form = {**fields, "PreSignedURL": (None, name)}
        headers = {"authorization": TOKEN}
        return service.client.post(route, files=form, headers=headers)

    number = post(f"{receiver}/bucket/fetched.txt?X-Amz-Signature=1").json()["JobID"]
    state = f"/vectorflow{HOME}/jobs/{number}/status"
    assert ended(lambda: service.ok("GET", state).json()["JobStatus"]) == "COMPLETED"
    assert passages(service, "fetched.txt")[0]["text"].startswith("The fetched text")
    assert "JobID" in post("users/42/avatars/7/vectorstore_data/fetched.txt").json()
    for other in ("users/43/avatars/7/vectorstore_data/fetched.txt", "users/42/vectorstore/log/1"):
        refused = post(other)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    inside = post("http://10.0.0.1/x.txt")
    assert (inside.status_code, inside.json()["code"]) == (400, "webhook-refused")


def test_one_request_uploads_and_ingests(service: Service) -> None:
    """The native form takes a file and how to cut it; it is refused with what is wrong in it."""
    text = " ".join(f"Sentence number {n} is here." for n in range(60)).encode()
    form = {"file": ("folder/long.txt", text), "path": (None, "a/long.txt"), "chunk_size": (None, "40")}
    job = service.request("POST", f"{HOME}/embed?wait_s=100", files={**form, "chunk_overlap": (None, "0")})
    assert (job.status_code, job.json()["state"]) == (200, "done"), job.text
    assert len(passages(service, "a/long.txt")) > 5
    queued = service.request("POST", f"{HOME}/embed", files={"file": ("b.txt", b"Some text.")})
    assert queued.status_code == 202
    assert service.ok("GET", f"{queued.headers['location']}?wait_s=100").json()["state"] == "done"
    for files, code in (
        ({"file": ("film.mp4", b"x")}, "unsupported-format"),
        ({"file": ("../../x", b"x"), "path": (None, "../x")}, "invalid-id"),
        ({"another": ("a.txt", b"x")}, "invalid-request"),
        ({**form, "chunk_size": (None, "many")}, "invalid-request"),
    ):
        refused = service.request("POST", f"{HOME}/embed", files=files)
        assert refused.json()["code"] == code
    plain = service.request("POST", f"{HOME}/embed", json={"file": "x"})
    assert plain.json()["code"] == "invalid-request"
