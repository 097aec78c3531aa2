"""Where vectorpool differs from the reference on purpose: each difference once, with its reason and both answers.

What is not listed here is compared for equality in the other modules.
"""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from tests.protocol.comparing import Answer
from tests.protocol.conftest import only_ours
from tests.protocol.sides import API, Side, Sides

pytestmark = only_ours

TENANT = f"{API}/tenants/mine"
PLACES = {"T": TENANT, "B": f"{TENANT}/databases/shelf"}
# Paths of the caller's own to a collection that belongs to tenant "other".
STRANGER = {"T": TENANT, "B": f"{API}/tenants/other/databases/shelf"}


class Difference(msgspec.Struct, frozen=True):
    """One request, why the answers differ, and what each side answers: a status and an error's name.

    The reference's ``None`` is a connection dropped without an answer.
    """

    line: str
    reason: str
    reference: tuple[int, str | None] | None
    ours: tuple[int, str | None]


FOREIGN = "a collection of another tenant is not reached by knowing its id"
WEDGES = "it would end the compactor of an open store for good"
BAD, MISSING, TAKEN = (400, "InvalidArgumentError"), (404, "NotFoundError"), (409, "ChromaError")
OK: tuple[int, str | None] = (200, None)
ADDED: tuple[int, str | None] = (201, None)
DIFFERENCES = [
    Difference("GET <foreign>/count", FOREIGN, OK, MISSING),
    Difference("POST <foreign>/get {}", FOREIGN, OK, MISSING),
    Difference('POST <foreign>/query {"query_embeddings":[[1,0,0]]}', FOREIGN, OK, MISSING),
    Difference('POST <foreign>/add {"ids":["z"],"embeddings":[[1,2,3]]}', FOREIGN, ADDED, MISSING),
    Difference('POST <foreign>/upsert {"ids":["z"],"embeddings":[[1,2,3]]}', FOREIGN, OK, MISSING),
    Difference('POST <foreign>/update {"ids":["z"],"embeddings":[[1,2,3]]}', FOREIGN, OK, MISSING),
    Difference('POST <foreign>/delete {"ids":["z"]}', FOREIGN, OK, MISSING),
    Difference('PUT <foreign> {"new_metadata":{"k":1}}', FOREIGN, OK, MISSING),
    Difference('POST /api/v2/tenants/nobody/databases {"name":"shelf"}', "a database needs its tenant", OK, MISSING),
    Difference(
        'PUT <books> {"new_name":"taken"}', "a clash of names is no fault of the server", (500, "InternalError"), TAKEN
    ),
    Difference(
        "GET /api/v2/collections/mine:shelf:books", "an answer is better than a dropped connection", None, MISSING
    ),
    Difference(
        'POST <books>/upsert {"ids":["k"],"embeddings":[[1,2,3]],"metadatas":[{"chroma:document":"x"}]}',
        WEDGES,
        OK,
        BAD,
    ),
    Difference('POST <B>/collections {"name":"listed","metadata":{"k":[1,2]}}', WEDGES, None, BAD),
    Difference('PUT <books> {"new_metadata":{"k":[1,2]}}', WEDGES, None, BAD),
]


@pytest.fixture(scope="module")
def places(sides: Sides) -> dict[str, str]:
    """Two tenants with a collection each, on both servers."""
    for tenant, names in (("mine", ("books", "taken")), ("other", ("theirs",))):
        own = {"T": f"{API}/tenants/{tenant}", "B": f"{API}/tenants/{tenant}/databases/shelf"}
        sides.same("POST", f"{API}/tenants", {"name": tenant})
        sides.same("POST", "<T>/databases", {"name": "shelf"}, places=own)
        for name in names:
            sides.same("POST", "<B>/collections", {"name": name}, places=own)
            body = {"ids": ["a"], "embeddings": [[1, 0, 0]], "documents": ["secret"]}
            sides.same("POST", f"<{name}>/add", body, places=own)
    return PLACES


def _path(side: Side, path: str) -> str:
    """Return a path in which ``<foreign>`` is the other tenant's collection under this tenant's database."""
    foreign = side.place("theirs", STRANGER).rsplit("/", 1)[1]
    return path.replace("<foreign>", f"<B>/collections/{foreign}")


def _send(side: Side, line: str) -> Answer | None:
    method, path, *body = line.split(" ", 2)
    content = body[0].encode() if body else None
    headers = {"content-type": "application/json"} if body else {}
    try:
        return side.send(method, _path(side, path), content, headers, PLACES)
    except httpx.RemoteProtocolError:
        return None


def _short(answer: Answer | None) -> tuple[int, str | None] | None:
    if answer is None:
        return None
    body: Any = answer.body
    return answer.status, body.get("error") if isinstance(body, dict) else None


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.line[:60])
def test_difference(sides: Sides, places: dict[str, str], difference: Difference) -> None:
    """Ours answers what the table says, with a message, and so does the reference as long as the difference exists."""
    reference, ours = _send(sides.reference, difference.line), _send(sides.ours, difference.line)
    assert (_short(reference), _short(ours)) == (difference.reference, difference.ours), (reference, ours)
    assert ours is not None
    if ours.status >= 400:
        assert ours.body["message"]


def test_nothing_of_the_other_tenant_changed(sides: Sides, places: dict[str, str]) -> None:
    """After all attempts of a stranger, the other tenant's collection is as it was."""
    for difference in DIFFERENCES:
        if "<foreign>" in difference.line:
            _send(sides.ours, difference.line)
    answer = sides.ours.send("POST", "<theirs>/get", b"{}", {"content-type": "application/json"}, STRANGER)
    assert answer.body["ids"] == ["a"]
    assert answer.body["documents"] == ["secret"]
    assert sides.ours.send("GET", "<B>/collections/theirs", None, {}, STRANGER).body["metadata"] is None
