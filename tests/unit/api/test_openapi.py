from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.unit.api.parts import FakeRouter, application, talk
from vectorpool.api.documentation import ANSWER_EXAMPLES, REQUEST_EXAMPLES
from vectorpool.api.requests import decode

METHODS = ("get", "head", "post", "put", "patch", "delete")


@pytest.fixture
async def document() -> dict[str, Any]:
    async with talk(application(FakeRouter())) as client:
        response = await client.get("/schema/openapi.json")
        assert response.status_code == 200
        found: dict[str, Any] = response.json()
        return found


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", item[method])
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    ]


async def test_every_operation_is_described(document: dict[str, Any]) -> None:
    """Each has an id of its own, a tag, a summary, a description, and described parameters."""
    found = operations(document)
    assert len(found) > 40
    ids = [operation["operationId"] for _, operation in found]
    assert len(set(ids)) == len(ids)
    for name, operation in found:
        assert operation["tags"] and operation["summary"], name
        assert operation["description"].rstrip().endswith("."), name
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), f"{name}: {parameter['name']}"


async def test_every_body_has_a_schema_and_an_example(document: dict[str, Any]) -> None:
    """What an operation takes and gives is shown, and every JSON answer names its struct."""
    for name, operation in operations(document):
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        status, success = next(iter(operation["responses"].items()))
        assert status in ("200", "201", "202"), name
        bodies.append(success)
        for body in bodies:
            for media, content in body.get("content", {}).items():
                if media == "application/json" and "/api/v2" in name:
                    # Chroma's shapes are its own, written where they are used.
                    assert "schema" in content, name
                elif media == "application/json":
                    assert content["schema"]["$ref"].startswith("#/components/schemas/"), name
                    assert content["example"], name
        bodiless = name.startswith("POST /admin/users/") or name.endswith(
            ("/reset", "/restart", "/retry", "/acknowledge")
        )
        needs_body = name.startswith(("POST", "PUT", "PATCH")) and not bodiless
        assert ("requestBody" in operation) == (
            needs_body or (name.endswith("}/records") and not name.startswith("GET"))
        ), name


async def test_problems_are_documented(document: dict[str, Any]) -> None:
    """Operations on vectorstores say how they are refused, with an example for each code, and name the commit."""
    for name, operation in operations(document):
        if "/collections" not in name or "/api/v2/collections/" in name:
            continue
        responses = operation["responses"]
        # A collection can be created for a user who is not there yet; every other operation may find nothing.
        creates = name.startswith("POST") and name.endswith("/collections")
        assert {"400", "413", "429", "503", *(() if creates else ("404",))} <= set(responses), name
        success = next(iter(responses.values()))
        assert "X-Vectorpool-Commit" in success["headers"], name
        if "/api/v2" in name:
            assert set(responses["400"]["content"]["application/json"]["schema"]["properties"]) == {"error", "message"}
            continue
        examples = responses["400"]["content"]["application/problem+json"]["examples"]
        assert examples["invalid-id"]["value"]["type"] == "https://vectorpool.dev/problems/invalid-id"


async def test_every_reference_resolves(document: dict[str, Any]) -> None:
    """No schema is named that is not there."""
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for reference in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert reference in schemas, reference


@pytest.mark.parametrize("struct", list(REQUEST_EXAMPLES), ids=lambda struct: struct.__name__)
def test_request_examples_are_valid(struct: type[msgspec.Struct]) -> None:
    """What the documentation shows can be sent."""
    decode(json.dumps(REQUEST_EXAMPLES[struct]).encode(), struct)


def test_answer_examples_are_of_their_type() -> None:
    """What the documentation shows could be answered."""
    for struct, example in ANSWER_EXAMPLES.items():
        assert type(example) is struct


async def test_the_page_needs_no_network() -> None:
    """The page for people shows every path, loads nothing from elsewhere, and runs no script."""
    async with talk(application(FakeRouter())) as client:
        page = await client.get("/schema")
        document = (await client.get("/schema/openapi.json")).json()
    assert page.headers["content-type"].startswith("text/html")
    assert all(path in page.text for path in document["paths"])
    for word in ("<script", "<link", "src=", "cdn", "@import"):
        assert word not in page.text, word
