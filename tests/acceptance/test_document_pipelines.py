"""Real documents through the served product: passages with their places, pipelines, vectors, streams, upload URLs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.document_files import BAD, FACT, GOOD, word
from tests.support.service import Service

AVATAR = "/users/{user}/avatars/7"
NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    served = Service(tmp_path_factory.mktemp("service"), "--shards", "1").start()
    yield served
    served.close()


def test_a_folder_of_every_format_is_ingested_and_answers_say_where(service: Service, user: str) -> None:
    """Good documents of all formats and bad ones in one ingest: each its own outcome, passages with places."""
    avatar = AVATAR.format(user=user)
    bad = {path: BAD[path] for path in ("secret.pdf", "cut.docx", "image.pdf", "bomb.zip", "empty.pdf", "latin.csv")}
    for path, make in GOOD.items():
        service.ok("PUT", f"{avatar}/documents/good/{path}", content=make())
    for path, (make, _) in bad.items():
        service.ok("PUT", f"{avatar}/documents/{path}", content=make())
    report = service.ok("POST", f"{avatar}/ingest?wait_s=120", timeout=300).json()
    outcomes = {outcome["path"]: outcome for outcome in report["documents"]}
    assert {path for path, outcome in outcomes.items() if outcome["status"] == "failed"} == set(bad)
    assert {path: outcomes[path]["code"] for path in bad} == {path: code for path, (_, code) in bad.items()}
    assert all(outcomes[f"good/{path}"]["chunks"] for path in GOOD)
    question = {"text": FACT, "n_results": 40, "where_document": {"$contains": FACT}}
    passages = service.ok("POST", f"{avatar}/query", json=question).json()["results"][0]
    found = {passage["path"]: passage for passage in passages}
    assert {f"good/{path}" for path in GOOD} == found.keys()
    assert found["good/a.pdf"]["page"] == 2 and found["good/a.xlsx"]["sheet"] == "Warranty"
    assert found["good/a.zip"]["member"] == "docs/pump.md" and found["good/a.docx"]["heading"] == "Guide > Warranty"
    assert (
        found["good/a.csv"]["text"].startswith("Part | Sentence\n")
        and len(found["good/a.csv"]["metadata"]["hash"]) == 32
    )
    again = service.ok("POST", f"{avatar}/ingest?wait_s=120", timeout=300).json()["documents"]
    assert {o["path"] for o in again if o["status"] == "unchanged"} == {f"good/{path}" for path in GOOD}


def test_a_chosen_pipeline_is_kept_and_cuts_again(service: Service, user: str) -> None:
    """It is shown with what holds, cuts what it must at the next ingest, survives an eviction, can be taken back."""
    avatar = AVATAR.format(user=user)
    settings = service.ok("GET", f"{avatar}/pipeline").json()
    assert (settings["strategy"], settings["chunk_tokens"], settings["chosen"]) == ("auto", 220, {})
    lines = "\n".join(f"Line {number} says that pump {number} is blue." for number in range(40))
    service.ok("PUT", f"{avatar}/documents/a.txt", content=f"{lines}\n".encode())
    service.ok("PUT", f"{avatar}/documents/b.md", content=f"# One\n\n{FACT}\n\n# Two\n\n{FACT}\n".encode())
    first = service.ok("POST", f"{avatar}/ingest?wait_s=120").json()["documents"]
    put = service.ok(
        "PUT", f"{avatar}/pipeline", json={"strategy": "rows", "chunk_tokens": 32, "chunk_overlap_tokens": 0}
    )
    assert put.json()["chosen"] == {"strategy": "rows", "chunk_tokens": 32, "chunk_overlap_tokens": 0}
    service.ok("POST", f"/admin/users/{user}/evict")
    assert service.ok("GET", f"{avatar}/pipeline").json() == put.json()
    second = service.ok("POST", f"{avatar}/ingest?wait_s=120").json()["documents"]
    assert [o["status"] for o in second] == ["ingested", "ingested"]
    assert second[0]["chunks"] > 2 * first[0]["chunks"]
    once = service.ok(
        "POST", f"{avatar}/ingest?wait_s=120", json={"paths": ["b.md"], "pipeline": {"strategy": "none"}}
    ).json()
    assert once["documents"][0]["chunks"] == 1
    assert service.ok("DELETE", f"{avatar}/pipeline").json() == {"deleted": 1}
    assert service.ok("DELETE", f"{avatar}/pipeline").json() == {"deleted": 0}
    third = service.ok("POST", f"{avatar}/ingest?wait_s=120").json()["documents"]
    assert [o["chunks"] for o in third] == [o["chunks"] for o in first]
    service.problem("PUT", f"{avatar}/pipeline", "malformed-json", json={"strategy": "wild"})
    service.problem("PUT", f"{avatar}/pipeline", "malformed-json", json={"chunk_tokens": 1})


def test_a_deleted_avatar_forgets_its_pipeline(service: Service, user: str) -> None:
    """Natively and by Chroma's protocol."""
    for number, delete in enumerate((AVATAR, "/api/v2/tenants/{user}/databases/avatar-7")):
        avatar = AVATAR.format(user=f"{user}-{number}")
        service.ok("PUT", f"{avatar}/pipeline", json={"strategy": "sentences"})
        assert service.ok("GET", f"{avatar}/pipeline").json()["strategy"] == "sentences"
        service.ok("DELETE", delete.format(user=f"{user}-{number}"))
        assert service.ok("GET", f"{avatar}/pipeline").json()["chosen"] == {}


def test_texts_are_embedded_and_nothing_is_stored(service: Service, user: str) -> None:
    """The vectors are those that a record of the text gets; a text is cut; the bounds hold."""
    answer = service.ok("POST", "/embed", json={"texts": [FACT, "Something else."]}).json()
    assert (answer["dimension"], len(answer["embeddings"]), len(answer["embeddings"][0])) == (384, 2, 384)
    collection = f"/users/{user}/collections/notes"
    service.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
    service.ok("PUT", f"{collection}/records", json={"records": [{"id": "a", "document": FACT}]})
    query = {"embeddings": [answer["embeddings"][0]], "n_results": 1}
    assert service.ok("POST", f"{collection}/query", json=query).json()["results"][0][0]["distance"] < 0.01
    text = "\n\n".join(f"Paragraph {number}. {FACT}" for number in range(60))
    cut = service.ok("POST", "/embed", json={"text": text, "pipeline": {"chunk_tokens": 40}}).json()
    assert len(cut["chunks"]) == len(cut["embeddings"]) > 10
    assert all(text[chunk["start"] : chunk["end"]] == chunk["text"] for chunk in cut["chunks"])
    for body in ({}, {"texts": []}, {"text": " \n"}, {"texts": ["a"], "text": "b"}, {"texts": ["a"], "pipeline": {}}):
        service.problem("POST", "/embed", "invalid-request", json=body)
    service.problem("POST", "/embed", "limit-exceeded", json={"texts": ["a"] * 1001})


def stream(lines: list[object]) -> bytes:
    return b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)


@pytest.mark.parametrize("namespace", ["/users/{user}", AVATAR])
def test_a_stream_of_records_is_upserted_while_it_arrives(service: Service, user: str, namespace: str) -> None:
    """Two thousand records in several commits, in any pieces; the same stream again changes no count."""
    root = namespace.format(user=f"{user}{len(namespace)}")
    service.ok("POST", f"{root}/collections", json={"name": "notes"})
    path = f"{root}/collections/notes/records/stream"
    lines: list[object] = [
        {"id": f"r{number}", "embedding": [number / 7, 1.0, 0.5], "text": f"t{number}", "metadata": {"n": number}}
        for number in range(2000)
    ]
    body = stream(lines) + b"\r\n\n"

    def parts() -> Iterator[bytes]:
        yield from (body[at : at + 7_001] for at in range(0, len(body), 7_001))

    for _ in range(2):
        receipt = service.ok("PUT", path, content=parts(), headers=NDJSON).json()
        assert receipt == {"written": 2000, "commits": 4}
        assert service.ok("GET", f"{root}/collections/notes/count").json() == {"count": 2000}
    got = service.ok("POST", f"{root}/collections/notes/records/get", json={"ids": ["r1999"]}).json()["records"]
    assert (got[0]["document"], got[0]["metadata"]) == ("t1999", {"n": 1999})


def test_an_error_names_the_line_and_what_is_written_stays(service: Service, user: str) -> None:
    """Broken JSON, a missing id, another dimension, a wrong type of content."""
    root = f"/users/{user}"
    service.ok("POST", f"{root}/collections", json={"name": "notes"})
    path = f"{root}/collections/notes/records/stream"
    good: list[object] = [{"id": f"r{number}", "embedding": [1.0, 2.0]} for number in range(700)]
    broken = service.problem(
        "PUT", path, "malformed-json", content=stream([*good, b'{"id": "x",', *good]), headers=NDJSON
    )
    assert broken.json()["line"] == 701 and broken.json()["lines_written"] == 500
    assert "Line 701" in broken.json()["detail"] and "up to 500 are written" in broken.json()["detail"]
    assert service.ok("GET", f"{root}/collections/notes/count").json() == {"count": 500}
    other = service.problem(
        "PUT", path, "dimension-mismatch", content=stream([{"id": "y", "embedding": [1.0]}]), headers=NDJSON
    )
    assert other.json()["line"] == 1 and "Nothing is written" in other.json()["detail"]
    service.problem("PUT", path, "invalid-request", content=stream([{"id": "z"}]), headers=NDJSON)
    service.problem("PUT", path, "malformed-json", content=stream([{"text": "no id"}]), headers=NDJSON)
    service.problem("PUT", path, "limit-exceeded", content=b'{"id": "' + b"x" * (9 * 1024**2), headers=NDJSON)
    service.problem("PUT", path, "unsupported-format", content=stream(good))
    assert service.ok("PUT", path, content=b"", headers=NDJSON).json() == {"written": 0, "commits": 0}
    # The last of two lines with one id stays.
    twice = stream([{"id": "r1", "embedding": [3.0, 3.0]}, {"id": "r1", "embedding": [4.0, 4.0]}])
    assert service.ok("PUT", path, content=twice, headers=NDJSON).json() == {"written": 2, "commits": 2}


def test_an_interrupted_stream_leaves_whole_batches(service: Service, user: str) -> None:
    """The sender goes in the middle: what was written is whole batches, and the stream sent again completes it."""
    root = f"/users/{user}"
    service.ok("POST", f"{root}/collections", json={"name": "notes"})
    path = f"{root}/collections/notes/records/stream"
    body = stream([{"id": f"r{number}", "embedding": [1.0, 2.0]} for number in range(1800)])

    def cut() -> Iterator[bytes]:
        for at in range(0, len(body) * 2 // 3, 10_000):
            yield body[at : at + 10_000]
        raise ConnectionError("the sender goes")

    with pytest.raises((ConnectionError, httpx.HTTPError)):
        service.request("PUT", path, content=cut(), headers=NDJSON)
    # The batch under way when the sender went is written to its end.
    deadline = time.monotonic() + 60
    while service.ok("GET", f"{root}/collections/notes/count").json()["count"] % 500:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert service.ok("PUT", path, content=body, headers=NDJSON).json()["written"] == 1800
    assert service.ok("GET", f"{root}/collections/notes/count").json() == {"count": 1800}


def test_a_directory_says_that_it_makes_no_upload_urls(service: Service, user: str) -> None:
    """And where to put the document instead."""
    refused = service.problem(
        "POST", f"{AVATAR.format(user=user)}/upload-urls", "upload-url-unavailable", json={"path": "a"}
    )
    assert refused.status_code == 501 and "/documents/" in refused.json()["detail"]


def test_a_replaced_document_of_another_format_leaves_no_old_place(service: Service, user: str) -> None:
    """The same path with other bytes: page and sheet of the old records are gone."""
    avatar = AVATAR.format(user=user)
    service.ok("PUT", f"{avatar}/documents/unnamed", content=GOOD["a.xlsx"]())
    service.ok("POST", f"{avatar}/ingest?wait_s=120")
    service.ok("PUT", f"{avatar}/documents/unnamed", content=word())
    service.ok("POST", f"{avatar}/ingest?wait_s=120")
    passages = service.ok("POST", f"{avatar}/query", json={"text": FACT}).json()["results"][0]
    assert passages and all(passage.get("sheet") is None and "sheet" not in passage["metadata"] for passage in passages)
