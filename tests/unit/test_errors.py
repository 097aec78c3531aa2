"""The tree of errors: each has a place in it, a code, a sentence, and survives the wire."""

from __future__ import annotations

import re

import msgspec
import pytest

from tests.reference import meaning_and_remedy
from vectorpool import errors
from vectorpool.errors import ErrorWire, InternalError, TryAgain, VectorpoolError


def _all() -> list[type[VectorpoolError]]:
    found: list[type[VectorpoolError]] = []
    waiting = [VectorpoolError]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            if cls.__module__.startswith(f"{errors.__name__}."):
                found.append(cls)
                waiting.append(cls)
    return found


@pytest.mark.parametrize("cls", _all(), ids=lambda cls: cls.__name__)
def test_every_error_is_described_and_placed(cls: type[VectorpoolError]) -> None:
    """Each class has a docstring, a code of its own, a title and an HTTP status of a failure."""
    assert cls.__doc__
    assert "code" in cls.__dict__, "an inherited code would turn into the parent on the wire"
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cls.code)
    assert cls.title
    assert 400 <= cls.status <= 599
    if issubclass(cls, TryAgain):
        assert cls.retry_after_s
        assert cls.status in (429, 503)


@pytest.mark.parametrize("cls", _all(), ids=lambda cls: cls.__name__)
def test_every_error_says_what_to_do(cls: type[VectorpoolError]) -> None:
    """Each docstring has a paragraph that begins with ``To do:``, in sentences, and is no other error's."""
    meaning, remedy = meaning_and_remedy(cls)
    assert meaning.endswith(".") and not meaning.startswith("To do:")
    assert len(remedy) >= 20 and remedy.endswith("."), "its docstring has no paragraph `To do: ...`"
    if cls is not TryAgain:
        assert [other.__name__ for other in _all() if meaning_and_remedy(other)[1] == remedy] == [cls.__name__]


def test_codes_are_unique() -> None:
    """No two classes share a code."""
    codes = [cls.code for cls in _all()]
    assert len(codes) == len(set(codes)) > 20


@pytest.mark.parametrize("cls", _all(), ids=lambda cls: cls.__name__)
def test_the_wire_keeps_class_and_members(cls: type[VectorpoolError]) -> None:
    """An error encoded in one process is the same error in another."""
    sent = cls("what happened", retry_after_s=2.5, extra={"limit": 7, "names": ["a"]})
    received = VectorpoolError.from_wire(msgspec.msgpack.decode(msgspec.msgpack.encode(sent.to_wire()), type=ErrorWire))
    assert type(received) is cls
    assert (received.detail, received.retry_after_s, received.extra) == (sent.detail, 2.5, sent.extra)
    assert str(received) == "what happened"


def test_an_unknown_code_is_an_internal_error() -> None:
    """An error of a newer process is not lost, only its class."""
    received = VectorpoolError.from_wire(ErrorWire("from-the-future", "text"))
    assert type(received) is InternalError
    assert received.detail == "text"


def test_extra_members_are_not_shared() -> None:
    """Two errors without extra members do not share one dictionary."""
    one, other = InternalError("1"), InternalError("2")
    one.extra["x"] = 1
    assert other.extra == {}
