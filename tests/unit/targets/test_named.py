"""Named targets: what an operator may name, and that no refusal shows a URL."""

from __future__ import annotations

import pytest

from vectorpool.errors import Misconfigured, UnknownTarget
from vectorpool.targets.named import parse_named, pick


def test_targets_are_found_by_name() -> None:
    """Names and URLs are separated by spaces or lines; an unknown name lists those that are there."""
    text = "warehouse=postgresql://vp:secret@db/vp\n lake=s3://bucket/users  near=parquet:///srv/vectors?x=a=b"
    found = parse_named(text, "targets")
    assert {name: each.kind for name, each in found.items()} == {
        "warehouse": "postgresql",
        "lake": "parquet",
        "near": "parquet",
    }
    assert pick(found, "lake").url == "s3://bucket/users"
    with pytest.raises(UnknownTarget, match="lake, near, warehouse"):
        pick(found, "postgresql://elsewhere/db")
    with pytest.raises(UnknownTarget, match="none"):
        pick({}, "lake")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("postgresql://vp:secret@db/vp", "not NAME=URL"),
        ("Ware House=postgresql://vp:secret@db/vp", "not NAME=URL"),
        ("a=parquet:///one a=parquet:///two", "two targets a"),
        ("a=ftp://vp:secret@host/x", "not known"),
        ("a=/srv/chroma", "holds one user"),
        ("a=users.parquet", "holds one user"),
        ("a=s3://bucket/users.parquet", "holds one user"),
        ("a=chroma+http://:secret@host:8000?tenant=all", "holds one user"),
        (" ".join(f"t{number}=parquet:///x" for number in range(33)), "32 may be"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_its_url(text: str, message: str) -> None:
    """A target without a name, of no known kind, or where the second user would replace the first."""
    with pytest.raises(Misconfigured, match=message) as refusal:
        parse_named(text, "targets")
    assert "secret" not in str(refusal.value)
