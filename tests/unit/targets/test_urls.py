"""Targets' URLs and values: kinds, errors, credentials that are never shown, floats that survive."""

from __future__ import annotations

import math
import sys

import pytest

from vectorpool.errors import InvalidTarget
from vectorpool.targets import registry, values
from vectorpool.targets.urls import parse


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("./directory", "directory"),
        ("a.parquet", "parquet"),
        ("parquet:///x", "parquet"),
        ("s3://bucket/x", "parquet"),
        ("postgresql://h/d", "postgresql"),
        ("postgres://h/d", "postgresql"),
        ("chroma+http://h:8000", "chroma"),
        ("qdrant+https://h", "qdrant"),
        ("lancedb:///x", "lancedb"),
        ("milvus:///x.db", "milvus"),
        ("milvus+http://h:19530/database", "milvus"),
    ],
)
def test_the_scheme_names_the_kind(text: str, kind: str) -> None:
    """Each scheme has a kind; a path is a directory, or a Parquet file by its suffix."""
    assert parse(text).kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mysql://u:secret@h",
        "chroma+http://",
        "s3:///x",
        "parquet://",
        "lancedb:///",
        "milvus:///",
        "milvus:///no-suffix",
        "milvus+http://",
        "qdrant+http://h:port",
        "s3://a b",
    ],
)
def test_what_is_no_target_is_refused_without_its_credentials(text: str) -> None:
    """A URL that cannot be used says what to write, and repeats no password."""
    with pytest.raises(InvalidTarget) as raised:
        parse(text)
    assert "secret" not in raised.value.detail


def test_a_misspelled_scheme_is_told_the_nearest() -> None:
    """The nearest scheme is named."""
    with pytest.raises(InvalidTarget, match="Did you mean postgresql"):
        parse("postgresq://h/d")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:hunter%40two@h/d",
        "postgresql://h/d?password=hunter%40two",
        "chroma+http://:hunter%40two@h:1",
        "qdrant+http://hunter%40two@h:1",
        "s3://key:hunter%40two@bucket/x",
    ],
)
def test_credentials_are_never_shown(text: str) -> None:
    """Neither the target's name nor a driver's text that repeats its URL or password has them."""
    target = parse(text)
    for shown in (target.shown, repr(target), target.clean(f"cannot open {text}"), target.clean("bad hunter@two")):
        assert "hunter" not in shown


def test_a_missing_driver_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optional driver that is not installed is an error that says what to install."""
    monkeypatch.delitem(sys.modules, "vectorpool.targets.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidTarget, match=r"vectorpool\[parquet\]"):
        registry.open_sink(parse("a.parquet"))


def test_a_driver_that_the_slim_image_lacks_is_named_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver of every installation but the slim image is an error that says so."""
    for name in ("vectorpool.targets.postgresql", "vectorpool.targets.postgresql_schema"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidTarget, match="full image"):
        registry.open_sink(parse("postgresql://nobody@db.example/none"))


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, -0.0, 1e300, 5e-324, 3.0, 0.1, 2**63 - 1, True, "x", [1.5, math.inf]]
)
def test_values_survive_as_json(value: object) -> None:
    """Metadata comes back with its types."""
    back = values.from_json(values.to_json({"k": value}))
    assert back is not None
    assert repr(back["k"]) == repr(value)


def test_nan_survives_and_is_found() -> None:
    """NaN comes back as NaN, and targets of plain JSON are told its key."""
    back = values.from_json(values.to_json({"k": math.nan}))
    assert back is not None
    assert math.isnan(back["k"])
    assert values.unholdable({"a": 1.0, "k": [math.nan]}) == "k"
    assert values.unholdable({"a": 1.0}) is None
