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
PARSED = "another JSON parser reads it, in a stricter or a laxer way"
ROUTED = "another router, which is laxer with trailing slashes and answers OPTIONS"
UNSAFE = "a tenant is a user id, and part of a key in object storage"
IDS = "what the caller asked for is no fault of the server"
PANICS = "an answer is better than a dropped connection"
FRONT = "what a body shows by itself is told before anybody opens the store"
NULS = "a NUL breaks the full-text index and hides the text after it"
EVERYTHING = "a filter that joins nothing would delete every record"
BOUNDED = "a number that native code allocates by is bounded, so that one tenant cannot end or stall the others"
WEDGES = "it would end the compactor of an open store for good"
BAD, MISSING, TAKEN = (400, "InvalidArgumentError"), (404, "NotFoundError"), (409, "ChromaError")
UNREADABLE = (422, "ChromaError")
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
    Difference("GET /api/v2/collections/mine:shelf:books", PANICS, None, MISSING),
    # One of its records was deleted; without that the reference answers as ours does.
    Difference('POST <holed>/query {"query_embeddings":[[1,0,0]],"n_results":0}', PANICS, None, OK),
    Difference(
        'POST <books>/upsert {"ids":["k"],"embeddings":[[1,2,3]],"metadatas":[{"chroma:document":"x"}]}',
        WEDGES,
        OK,
        BAD,
    ),
    Difference('POST <B>/collections {"name":"listed","metadata":{"k":[1,2]}}', WEDGES, None, BAD),
    Difference('PUT <books> {"new_metadata":{"k":[1,2]}}', WEDGES, None, BAD),
    Difference(
        'POST <B>/collections {"name":"manylinks","configuration":{"hnsw":{"max_neighbors":1000000}}}', BOUNDED, OK, BAD
    ),
    Difference('POST <B>/collections {"name":"onelink","metadata":{"hnsw:M":1}}', BOUNDED, OK, BAD),
    Difference('POST <books>/query {"query_embeddings":[[1,0,0]],"ids":["zz"]}', IDS, (500, "InternalError"), BAD),
    Difference('POST /api/v2/tenants {"name":"a b/c"}', UNSAFE, OK, BAD),
    Difference('POST /api/v2/tenants ["array"]', PARSED, OK, UNREADABLE),
    Difference('POST /api/v2/tenants {"name":"twice","name":"again"}', PARSED, UNREADABLE, OK),
    Difference('POST <books>/get {"limit":1,"limit":2}', PARSED, UNREADABLE, OK),
    Difference("GET /api/v2/", ROUTED, (404, None), OK),
    Difference("GET <B>/", ROUTED, (404, None), OK),
    Difference("GET <T>/databases/", ROUTED, (404, None), OK),
    Difference("OPTIONS /api/v2/heartbeat", ROUTED, (405, None), (204, None)),
    Difference('POST <none>/add {"ids":["a"],"embeddings":[[]]}', FRONT, MISSING, BAD),
    Difference('POST <none>/upsert {"ids":["a"],"embeddings":["!!!"]}', FRONT, MISSING, BAD),
    Difference('POST <none>/query {"query_embeddings":[[1],[1,2]]}', FRONT, MISSING, BAD),
    Difference('POST <taken>/upsert {"ids":["k"],"embeddings":[[1,2,3]],"documents":["a\\u0000b"]}', NULS, OK, BAD),
    Difference('POST <taken>/delete {"where":{"$or":[]}}', EVERYTHING, OK, BAD),
    Difference('POST <taken>/delete {"where":{"$and":[]}}', EVERYTHING, OK, BAD),
]


@pytest.fixture(scope="module")
def places(sides: Sides) -> dict[str, str]:
    """Two tenants with collections, on both servers."""
    for tenant, names in (("mine", ("books", "taken")), ("other", ("theirs",))):
        own = {"T": f"{API}/tenants/{tenant}", "B": f"{API}/tenants/{tenant}/databases/shelf"}
        sides.same("POST", f"{API}/tenants", {"name": tenant})
        sides.same("POST", "<T>/databases", {"name": "shelf"}, places=own)
        for name in names:
            sides.same("POST", "<B>/collections", {"name": name}, places=own)
            body = {"ids": ["a"], "embeddings": [[1, 0, 0]], "documents": ["secret"]}
            sides.same("POST", f"<{name}>/add", body, places=own)
    sides.same("POST", "<B>/collections", {"name": "holed"}, places=PLACES)
    sides.same("POST", "<holed>/add", {"ids": ["a", "b"], "embeddings": [[1, 0, 0], [0, 1, 0]]}, places=PLACES)
    sides.same("POST", "<holed>/delete", {"ids": ["a"]}, places=PLACES)
    return PLACES


def _path(side: Side, path: str) -> str:
    """Return a path in which ``<foreign>`` is the other tenant's collection under this tenant's database."""
    foreign = side.place("theirs", STRANGER).rsplit("/", 1)[1]
    return path.replace("<foreign>", f"<B>/collections/{foreign}")


def _send(side: Side, line: str, places: dict[str, str] = PLACES) -> Answer | None:
    method, path, *body = line.split(" ", 2)
    content = body[0].encode() if body else None
    headers = {"content-type": "application/json"} if body else {}
    try:
        return side.send(method, _path(side, path), content, headers, places)
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


def test_a_query_among_missing_ids_is_told_in_the_same_words(sides: Sides, places: dict[str, str]) -> None:
    """Only the status differs: clients that look for ``Error finding id`` find it."""
    for side in (sides.reference, sides.ours):
        answer = _send(side, 'POST <books>/query {"query_embeddings":[[1,0,0]],"ids":["zz"]}')
        assert answer is not None
        assert answer.body["message"] == "Error executing plan: Internal error: Error finding id"


def test_numbers_that_json_parsers_read_apart(sides: Sides, places: dict[str, str]) -> None:
    """``-0`` is a float to the reference and a whole number here; what is out of range is refused by both."""
    line = 'POST <books>/upsert {"ids":["zero"],"embeddings":[[1,2,3]],"metadatas":[{"z":-0,"k":-0.0}]}'
    kept = []
    for side in (sides.reference, sides.ours):
        assert _short(_send(side, line)) == OK
        answer = _send(side, 'POST <books>/get {"ids":["zero"]}')
        assert answer is not None
        kept.append(answer.body["metadatas"][0])
        assert _short(_send(side, 'POST <books>/get {"where":{"i":{"$gt":1e400}}}')) == BAD
    assert [type(row["z"]) for row in kept] == [float, int]
    assert [row["k"] for row in kept] == [0.0, 0.0]


def test_a_schema_learns_nothing_from_an_empty_array(sides: Sides, places: dict[str, str]) -> None:
    """An array without items has no type: the reference's schema takes it for one of bools, ours for none."""
    learnt = []
    for side in (sides.reference, sides.ours):
        assert _short(_send(side, 'POST <B>/collections {"name":"learning"}')) == OK
        line = 'POST <learning>/add {"ids":["a"],"embeddings":[[1,2,3]],"metadatas":[{"k":[]}]}'
        assert _short(_send(side, line)) == ADDED
        answer = _send(side, "GET <B>/collections/learning")
        assert answer is not None
        learnt.append("k" in answer.body["schema"]["keys"])
    assert learnt == [True, False]


NUMBERED = {
    "ids": ["two", "two-and-a-half", "huge", "largest", "clock"],
    "embeddings": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]],
    "metadatas": [{"n": 2}, {"n": 2.5}, {"n": 1e308}, {"n": 2**63 - 1}, {"ts": 1733262915.8748221}],
}
BY_VALUE: list[tuple[dict[str, Any], set[str], set[str]]] = [
    # A filter, what the reference finds, and what ours finds.
    ({"n": 2.5}, {"two", "two-and-a-half"}, {"two-and-a-half"}),
    ({"n": {"$ne": 2.5}}, {"huge", "largest", "clock"}, {"two", "huge", "largest", "clock"}),
    ({"n": {"$in": [2.5]}}, {"two", "two-and-a-half"}, {"two-and-a-half"}),
    ({"n": {"$nin": [2.5]}}, {"huge", "largest", "clock"}, {"two", "huge", "largest", "clock"}),
    ({"n": {"$gte": 2.5}}, {"two", "two-and-a-half", "huge", "largest"}, {"two-and-a-half", "huge", "largest"}),
    ({"n": {"$lt": 2.5}}, set(), {"two"}),
    ({"n": 1e308}, {"huge", "largest"}, {"huge"}),
]


def test_numbers_are_compared_by_value(sides: Sides, places: dict[str, str]) -> None:
    """2.5 is not 2 and 1e308 is no integer, in get, query and delete; the reference cuts floats to integers."""
    for at, (where, theirs, own) in enumerate(BY_VALUE):
        for side, expected in ((sides.reference, theirs), (sides.ours, own)):

            def send(verb: str, body: Any, side: Side = side, name: str = f"numbered-{at}") -> Any:
                answer = _send(side, f"POST <{name}>/{verb} {msgspec.json.encode(body).decode()}")
                assert answer is not None and answer.status < 400, answer
                return answer.body

            _send(side, f'POST <B>/collections {{"name":"numbered-{at}"}}')
            send("add", NUMBERED)
            assert set(send("get", {"where": where})["ids"]) == expected, where
            found = send("query", {"where": where, "query_embeddings": [[1, 2, 3]], "n_results": 9})["ids"][0]
            assert set(found) == expected, where
            assert send("delete", {"where": where}) == {"deleted": len(expected)}
            assert set(send("get", {})["ids"]) == set(NUMBERED["ids"]) - expected


def test_a_float_is_found_by_its_own_value(sides: Sides) -> None:
    """Also where it was written without Chroma, which changes its digits; no float beside it is."""
    # A vectorstore of its own: after some requests that only Chroma answers, writes go through Chroma for a while.
    own = {"T": f"{API}/tenants/clocks", "B": f"{API}/tenants/clocks/databases/shelf"}
    for line in (f'POST {API}/tenants {{"name":"clocks"}}', 'POST <T>/databases {"name":"shelf"}'):
        assert _short(_send(sides.ours, line, own)) == OK
    assert _short(_send(sides.ours, 'POST <B>/collections {"name":"clocks"}', own)) == OK
    for name, ts in (("first", "0.5"), ("second", "1733262915.8748221")):
        line = f'POST <clocks>/upsert {{"ids":["{name}"],"embeddings":[[1,2,3]],"metadatas":[{{"ts":{ts}}}]}}'
        assert _short(_send(sides.ours, line, own)) == OK
    for condition, expected in (
        ("1733262915.8748221", ["second"]),
        ("1733262915.874822", []),
        ("1733262915.8748224", []),
        ('{"$gt":1733262915.8748221}', []),
        ('{"$lte":1733262915.8748221}', ["first", "second"]),
    ):
        answer = _send(sides.ours, f'POST <clocks>/get {{"where":{{"ts":{condition}}}}}', own)
        assert answer is not None and answer.body["ids"] == expected, condition


@pytest.mark.parametrize("verb", ["add", "upsert", "update"])
@pytest.mark.parametrize("ids", [["a", "b"], [""]], ids=["uneven", "empty"])
def test_a_refused_write_teaches_no_dimension(sides: Sides, places: dict[str, str], verb: str, ids: list[str]) -> None:
    """A refusal changes nothing: the reference keeps the dimension of a first write that it refused for its ids."""
    learnt = []
    name = f"refusing-{verb}-{len(ids)}"
    for side in (sides.reference, sides.ours):
        assert _short(_send(side, f'POST <B>/collections {{"name":"{name}"}}')) == OK
        line = f'POST <{name}>/{verb} {{"ids":{msgspec.json.encode(ids).decode()},"embeddings":[[1,2,3]]}}'
        assert _short(_send(side, line)) == BAD
        answer = _send(side, f"GET <B>/collections/{name}")
        assert answer is not None
        learnt.append(answer.body["dimension"])
    assert learnt == [3, None]


@pytest.mark.parametrize("tenant", ["mine", "other"])
def test_no_array_of_a_deleted_collection_comes_back(sides: Sides, places: dict[str, str], tenant: str) -> None:
    """The reference forgets to delete arrays with their collection, and shows them in whatever is stored next."""
    own = {"T": f"{API}/tenants/{tenant}", "B": f"{API}/tenants/{tenant}/databases/shelf"}
    shown = []
    for side in (sides.reference, sides.ours):
        for name, where, metadata in (("secret", PLACES, {"word": ["x", "y"]}), (f"later-{tenant}", own, None)):
            body = {"ids": ["a"], "embeddings": [[1, 2, 3]], "metadatas": [metadata]}
            json = {"content-type": "application/json"}
            side.send("POST", "<B>/collections", msgspec.json.encode({"name": name}), json, where)
            assert side.send("POST", f"<{name}>/add", msgspec.json.encode(body), json, where).status == 201
            side.send("DELETE", "<B>/collections/secret", None, {}, PLACES)
        shown.append(side.send("POST", f"<later-{tenant}>/get", b"{}", json, own).body["metadatas"])
    assert shown == [[{"word": ["x", "y"]}], [None]]
