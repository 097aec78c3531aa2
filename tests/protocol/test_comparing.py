"""The comparison itself: it finds what differs, and lets pass only what the protocol leaves open."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from tests.protocol.comparing import Answer, answer_of, differences, is_alike, ties_sorted, without_cut_ties
from tests.protocol.sides import compared, in_order

FOUND = {
    "ids": [["a", "b", "c"]],
    "distances": [[0.0, 2.0, 2.0]],
    "documents": [["one", None, "three"]],
    "metadatas": [[{"n": 1, "f": 1.0, "b": True}, None, {}]],
    "embeddings": None,
    "include": ["documents", "metadatas", "distances"],
}


def answer(body: Any, status: int = 200, **more: Any) -> Answer:
    return Answer(status, "application/json", more.get("allow", frozenset()), body)


def changed(path: tuple[Any, ...], value: Any) -> Any:
    """Return what was found with one place changed."""
    body = msgspec.json.decode(msgspec.json.encode(FOUND))
    inside = body
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    return body


def test_equal_answers_have_no_differences() -> None:
    """An answer equals itself."""
    assert differences(answer(FOUND), answer(changed(("include",), FOUND["include"]))) == []


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("ids", 0, 1), "x", "ids[0][1]"),
        (("ids", 0), ["a", "b"], "ids[0]"),
        (("documents", 0, 1), "", "documents[0][1]"),
        (("documents",), None, "documents"),
        (("metadatas", 0, 0, "n"), 1.0, "metadatas[0][0].n"),
        (("metadatas", 0, 0, "f"), 1.0000001, "metadatas[0][0].f"),
        (("metadatas", 0, 0, "b"), 1, "metadatas[0][0].b"),
        (("metadatas", 0, 1), {}, "metadatas[0][1]"),
        (("metadatas", 0, 2, "more"), None, "metadatas[0][2].more"),
        (("distances", 0, 1), 2.00001, "distances[0][1]"),
        (("distances", 0, 1), 2, "distances[0][1]"),
        (("embeddings",), [], "embeddings"),
        (("uris",), None, "uris"),
        (("include",), ["metadatas", "documents", "distances"], "include[0]"),
    ],
)
def test_a_changed_place_is_told(path: tuple[Any, ...], value: Any, place: str) -> None:
    """Whatever is changed in an answer is found, at its place, from either side."""
    for pair in ((FOUND, changed(path, value)), (changed(path, value), FOUND)):
        found = differences(answer(pair[0]), answer(pair[1]))
        assert [text.split(":")[0] for text in found][:1] == [place], found


def test_a_missing_member_is_told() -> None:
    """A member that one side leaves out is a difference."""
    body = dict(FOUND)
    del body["embeddings"]
    assert differences(answer(FOUND), answer(body)) == ["embeddings: reference None, ours has none"]


def test_status_and_headers_are_compared() -> None:
    """Equal bodies do not hide another status, media type or list of methods."""
    assert differences(answer({}, 200), answer({}, 201)) == ["status: reference 200, ours 201"]
    assert differences(answer({}), answer({}, allow=frozenset({"GET"})))
    assert differences(answer({}), msgspec.structs.replace(answer({}), media_type="text/plain"))


def test_distances_have_room() -> None:
    """A distance may differ in its seventh digit, or by a float32's rounding of 1, nothing else may."""
    assert differences(answer(FOUND), answer(changed(("distances", 0, 1), 2.0000001))) == []
    assert differences(answer(FOUND), answer(changed(("distances", 0, 0), 1.2e-7))) == []
    assert differences(answer(FOUND), answer(changed(("distances", 0, 0), 1.2e-6))) != []


@pytest.mark.parametrize(
    "place",
    [
        {"distances": [[0.06080818]]},
        {"answer": {"distances": [[0.06080818, None]]}},
        {"answer": [[{"id": "a", "distance": 0.06080818}]]},
        [{"document": {"text": "a"}, "score": 0.06080818}],
        {"similarities": [0.06080818]},
    ],
)
def test_computed_numbers_have_room_in_the_words_of_every_client(place: Any) -> None:
    """A last digit that another processor computes otherwise is no difference; the sixth is one."""
    text = msgspec.json.encode(place).decode()
    assert is_alike(place, msgspec.json.decode(text.replace("0.06080818", "0.06080824")))
    assert not is_alike(place, msgspec.json.decode(text.replace("0.06080818", "0.06081018")))


@pytest.mark.parametrize(
    "place",
    [
        {"metadatas": [[{"distance": 0.06080818, "score": 0.5}]]},
        [{"document": {"metadata": {"score": 0.06080818}}}],
        {"embeddings": [[0.06080818]]},
        {"a score": 0.06080818},
    ],
)
def test_stored_numbers_have_none(place: Any) -> None:
    """What is stored and returned is equal to the last digit, under whatever key."""
    text = msgspec.json.encode(place).decode()
    assert is_alike(place, msgspec.json.decode(text))
    assert not is_alike(place, msgspec.json.decode(text.replace("0.06080818", "0.06080824")))


@pytest.mark.parametrize(
    ("reference", "ours", "equal"),
    [
        ("Collection [x] does not exist", "Collection [x] does not exist.", False),
        ("Failed to parse the request body as JSON: EOF", "Failed to parse the request body as JSON: truncated", True),
        ("Failed to parse the request body as JSON: EOF", "Malformed", False),
        ("name: Validation error: length [{a: 1, b: 2}]", "name: Validation error: length [{b: 2, a: 1}]", True),
        ("name: Validation error: length [{a: 1, b: 2}]", "name: Validation error: length [{b: 2, a: 3}]", False),
    ],
)
def test_messages(reference: str, ours: str, equal: bool) -> None:
    """Messages are equal to the letter, except in a parser's own words and in a random order."""
    found = differences(answer({"message": reference}, 400), answer({"message": ours}, 400))
    assert (found == []) is equal


def test_ties_may_stand_in_any_order() -> None:
    """Records at one distance may change places with all that belongs to them, others may not."""
    swapped = changed(("ids", 0), ["a", "c", "b"])
    assert compared("POST", "/query", answer(FOUND), answer(swapped)), "documents belong to other ids now"
    swapped["documents"] = [["one", "three", None]]
    swapped["metadatas"] = [[FOUND["metadatas"][0][0], {}, None]]
    assert compared("POST", "/query", answer(FOUND), answer(swapped)) == []
    assert ties_sorted(swapped) == ties_sorted(FOUND)
    first = changed(("ids", 0), ["b", "a", "c"])
    assert compared("POST", "/query", answer(FOUND), answer(first))


def test_a_cut_through_a_tie_is_open() -> None:
    """Which of several records at the last distance made it is open only where the limit was reached."""
    other = changed(("ids", 0), ["a", "b", "d"])
    other["documents"][0][2], other["metadatas"][0][2] = "four", {"n": 4}
    assert differences(without_cut_ties(answer(FOUND), 3), without_cut_ties(answer(other), 3)) == []
    assert differences(without_cut_ties(answer(FOUND), 4), without_cut_ties(answer(other), 4))
    nearest = changed(("ids", 0), ["x", "b", "c"])
    assert differences(without_cut_ties(answer(FOUND), 3), without_cut_ties(answer(nearest), 3))


def test_pages_of_collections_are_only_counted() -> None:
    """Collections come in any order, and a page of them holds any."""
    one, other = [{"name": "a"}, {"name": "b"}], [{"name": "b"}, {"name": "a"}]
    assert compared("GET", "<B>/collections", answer(one), answer(other)) == []
    assert compared("GET", "<B>/collections", answer(one), answer(other[:1]))
    assert in_order("GET", "<B>/collections?limit=1", answer(other[:1])).body == [None]
    assert compared("GET", "<T>/databases", answer(one), answer(other)), "databases have an order"


def test_bodies_that_are_no_json_are_compared_as_text() -> None:
    """An empty 404 is not the same as one with a body."""
    empty = answer_of(httpx.Response(404, request=httpx.Request("GET", "http://x")))
    told = answer_of(httpx.Response(404, json={"error": "NotFoundError"}))
    assert empty.body == ""
    assert len(differences(empty, told)) == 2
