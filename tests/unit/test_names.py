"""Names: ids that are kept verbatim, ids that are refused, and names that sort newest first."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorpool import local_paths, names
from vectorpool.errors import InvalidId
from vectorpool.objects.bucket import check_key, check_prefix

GOOD_IDS = [
    "42",
    "1",
    "a" * 128,
    "6f9619ff-8b86-d011-b42d-00c04fc964ff",
    "ann.o'neil+x@example.org",
    "a b",
    "名前",
    "a#1",
]
BAD_IDS = [
    "",
    ".",
    "..",
    "a/b",
    "/",
    "a\\b",
    "a\nb",
    "a\0b",
    "\x7f",
    " a",
    "a ",
    "a" * 129,
    "é" * 65,
    "\ud800",
    "\u202e",
]


@pytest.mark.parametrize("good", GOOD_IDS)
def test_usual_ids_are_kept_verbatim(good: str) -> None:
    """Numbers, UUIDs, e-mail-like ids and other scripts are their own segment of a key."""
    assert names.check_user_id(good) == good
    assert names.log_prefix(good) == f"users/{good}/vectorstore/log/"
    assert names.document_key(good, good, "a/b.md") == f"users/{good}/avatars/{good}/vectorstore_data/a/b.md"
    check_prefix(names.log_prefix(good))
    check_key(names.document_key(good, good, "a/b.md"))


@pytest.mark.parametrize("bad", [*BAD_IDS, "x" * 3_000_000])
def test_ids_that_could_leave_the_prefix_are_refused(bad: str) -> None:
    """Each is refused as user and as avatar, in a short sentence without control characters."""
    for check in (names.check_user_id, names.check_avatar_id, names.user_prefix):
        with pytest.raises(InvalidId) as caught:
            check(bad)
        assert len(caught.value.detail) < 300
        assert caught.value.detail.isprintable()
    with pytest.raises(InvalidId):
        names.documents_prefix("1", bad)


@pytest.mark.parametrize(
    "bad",
    ["", "/a", "a/", "a//b", "../a", "a/../../b", "a/./b", "a\0", "a\nb", "a\x7f", "\ud800", "x" * 1025, "x" * 1000],
)
def test_document_paths_stay_below_their_avatar(bad: str) -> None:
    """A path that is absolute, unclean or too long is refused."""
    with pytest.raises(InvalidId):
        names.document_key("1", "2", bad)


def test_every_prefix_is_the_given_layout() -> None:
    """The layout that other systems share is built letter by letter as it was given."""
    assert names.users_prefix() == "users/"
    assert names.user_prefix("42") == "users/42/"
    assert names.vectorstore_prefix("42") == "users/42/vectorstore/"
    assert names.avatars_prefix("42") == "users/42/avatars/"
    assert names.documents_prefix("42", "7") == "users/42/avatars/7/vectorstore_data/"


@given(st.integers(1, names.MAX_SEQ - 1), st.integers(1, names.MAX_SEQ - 1))
def test_newer_commits_sort_first(one: int, other: int) -> None:
    """A listing in key order shows the newer commit first."""
    if one > other:
        assert names.commit_name(one) < names.commit_name(other)
        assert names.base_name(one) < names.commit_name(other)


@given(st.integers(1, names.MAX_SEQ), st.data())
def test_log_names_say_what_they_are(seq: int, data: st.DataObject) -> None:
    """Each name is parsed back to kind and numbers."""
    assert names.parse_log_name(names.commit_name(seq)) == ("commit", seq, seq - 1)
    assert names.parse_log_name(names.base_name(seq)) == ("base", seq, 0)
    if seq >= 2:
        after = data.draw(st.integers(0, seq - 2))
        assert names.parse_log_name(names.merged_name(seq, after)) == ("merged", seq, after)


@given(st.text())
def test_foreign_log_names_are_no_commits(text: str) -> None:
    """Only a name that we would write is taken for one of ours."""
    parsed = names.parse_log_name(text)
    if parsed is not None:
        kind, seq, after = parsed
        built = {"commit": names.commit_name, "base": names.base_name}.get(kind)
        assert text == (built(seq) if built else names.merged_name(seq, after))


def test_numbers_out_of_range_have_no_name() -> None:
    """A number that would change the width of a name is refused."""
    for seq in (-1, names.MAX_SEQ + 1):
        with pytest.raises(ValueError, match="range"):
            names.commit_name(seq)


_ids = st.text(min_size=1, max_size=40).filter(
    lambda t: (
        t == t.strip()
        and t not in (".", "..")
        and len(t.encode("utf-8", "surrogatepass")) <= 128
        and not any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co") for c in t)
    )
)


@given(_ids, _ids)
def test_local_segments_are_unique_and_plain(one: str, other: str) -> None:
    """Two ids never share a local name, not even where upper and lower case are one; none is hidden or a path."""
    left, right = local_paths.local_segment(one), local_paths.local_segment(other)
    assert (left.casefold() == right.casefold()) == (one == other)
    assert left.isascii() and left == left.lower() and not left.startswith(".") and "/" not in left
    assert 0 < len(left) <= 200


def test_avatars_are_databases_and_back() -> None:
    """An avatar's database names its avatar; the user's own database names none."""
    assert names.database_name("7") == "avatar-7"
    assert names.database_name(None) == "default_database"
    assert names.avatar_of_database("avatar-7") == "7"
    assert names.avatar_of_database("default_database") is None


@pytest.mark.parametrize("name", ["ab", "-ab", "ab-", "a b", "a/b", "é-é", "", "a" * 513, ".."])
def test_collection_names_follow_chromas_rule(name: str) -> None:
    """What Chroma would refuse is refused here, with the rule."""
    with pytest.raises(InvalidId, match="3 to 512"):
        names.check_collection_name(name)
    assert names.check_collection_name("a.b_c-9") == "a.b_c-9"


def test_local_directories_are_apart() -> None:
    """Open directories of each shard and the warm tier do not overlap."""
    root = Path("/replicas")
    paths = [local_paths.open_dir(root, 0), local_paths.open_dir(root, 1), local_paths.warm_dir(root)]
    for path in paths:
        assert not any(path != other and path.is_relative_to(other) for other in paths)


def test_floors_are_no_log_objects_and_sort_behind_them() -> None:
    """A floor's key gives its number back, newest first, and nobody takes it for a commit."""
    keys = [names.floor_key("42", seq) for seq in (1, 2, 10**9)]
    assert [names.parse_floor_key(key) for key in keys] == [1, 2, 10**9]
    assert keys == sorted(keys, reverse=True)
    assert min(keys) > names.log_prefix("42") + names.commit_name(1) + "~"
    assert all(names.parse_log_name(key.rpartition("/")[2]) is None for key in keys)
    assert names.parse_floor_key("users/42/vectorstore/log/floor/12-floor") is None


@pytest.mark.parametrize("name", ["a", "before-import_1.0", "...", "A" * 64])
def test_backup_names_are_kept_as_they_are(name: str) -> None:
    """A backup's tag lies under its own name."""
    assert names.tag_key("42", name) == f"users/42/vectorstore/tags/{name}"
