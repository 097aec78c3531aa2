"""The handles with and without await say the same, and what they send is checked before it is sent."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from tests.support import sync_handles
from vectorpool.errors import InvalidRequest, Misconfigured, QueueFull, VectorpoolError
from vectorpool.instance import async_handles, handles
from vectorpool.instance.opening import read_options
from vectorpool.instance.operations import Operation, ask, path_of, records_of
from vectorpool.instance.runner import Call, Reply


def test_the_handles_without_await_are_made_from_those_for_asyncio() -> None:
    """Who changes one module makes the other anew."""
    assert sync_handles.TARGET.read_text() == sync_handles.made(), "run python -m tests.support.sync_handles --write"


@pytest.mark.parametrize("name", ["Pool", "User", "Avatar", "Collection"])
def test_both_faces_have_the_same_methods(name: str) -> None:
    """The parameters are the same; what talks to the instance is a coroutine in one of them only."""

    def methods(cls: type[Any]) -> dict[str, list[str]]:
        return {
            key: list(inspect.signature(value).parameters)
            for key, value in inspect.getmembers(cls, inspect.isfunction)
            if not key.startswith("_")
        }

    plain, awaited = getattr(handles, name), getattr(async_handles, f"Async{name}")
    assert methods(plain) == methods(awaited)
    assert not any(inspect.iscoroutinefunction(value) for _, value in inspect.getmembers(plain))


@pytest.mark.parametrize("segment", ["", ".", "..", "\ud800", 7])
def test_a_name_that_no_path_can_hold_is_refused_before_it_is_sent(segment: Any) -> None:
    """It would name another thing on the way."""
    with pytest.raises(InvalidRequest):
        path_of("users", segment)


def test_a_name_is_one_segment() -> None:
    """Slashes, percent signs and spaces are part of the name."""
    assert path_of("users", "a/b %2e?#é") == "/users/a%2Fb%20%252e%3F%23%C3%A9"


def test_columns_become_records() -> None:
    """Arrays are sent as numbers; what is not given is left out."""
    vectors = np.array([[1.0, 0.5], [0.25, 0.0]], dtype="<f4")
    body = records_of(["a", "b"], ["text", None], vectors, None, None)
    sent = ask("PUT", "/x", dict, body)
    assert sent.call.body == (
        b'{"records":[{"id":"a","document":"text","embedding":[1.0,0.5]},{"id":"b","embedding":[0.25,0.0]}]}'
    )
    with pytest.raises(InvalidRequest, match="2 ids and 1 documents"):
        records_of(["a", "b"], ["one"], None, None, None)
    with pytest.raises(InvalidRequest, match="object is not JSON"):
        ask("PUT", "/x", dict, records_of(["a"], None, None, [{"x": object()}], None))


def test_a_refusal_is_the_error_that_the_service_raised() -> None:
    """Its class, its sentence, its time to wait and its further members."""
    body = b'{"type":"t","title":"x","status":429,"detail":"Later.","instance":"/","code":"queue-full","limit":3}'
    reply = Reply(429, [(b"retry-after", b"2")], body)
    operation: Operation[None] = Operation(Call("GET", "/"), lambda _: None)
    with pytest.raises(QueueFull, match="Later") as raised:
        operation.result(reply)
    assert raised.value.retry_after_s == 2.0
    assert raised.value.extra == {"limit": 3}
    with pytest.raises(VectorpoolError, match="answered 502"):
        operation.result(Reply(502, [], b"<html>"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"open_slot": 3}, "open_slots"),
        ({"open_slots": 0}, "open_slots"),
        ({"tokens_file": "x"}, "a setting of a server"),
        ({"admin_key": "secret-of-mine"}, "a setting of a server"),
        ({"port": 1}, "a setting of a server"),
        ({"shards": -1}, "into this process"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    """A secret's value is not repeated."""
    with pytest.raises(Misconfigured, match=words) as raised:
        read_options("store", options)
    assert "secret-of-mine" not in str(raised.value)


def test_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library does what its caller says."""
    monkeypatch.setenv("VECTORPOOL_OPEN_SLOTS", "7")
    monkeypatch.setenv("VECTORPOOL_TYPO", "7")
    assert read_options("store", {}).open_slots != 7
