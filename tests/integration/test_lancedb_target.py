"""LanceDB as a target, beyond what every kind of target does (``test_targets.py``): with the real library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vectorpool.errors import TargetRefused, UserNotFound
from vectorpool.targets import registry
from vectorpool.targets.records import Collection, Held, Records
from vectorpool.targets.urls import Target, parse

pytestmark = pytest.mark.lancedb

NOTES = Collection("11111111-2222-3333-4444-555555555555", "avatar-7", "notes", {"a": 1e300}, 3)
IDS = ["it's", "back\\slash", 'quo"te', "line\nbreak", "nul\0", "ü %_", "'); DROP TABLE x; --", "kept"]


def _export(target: Target, user: str, ids: list[str], commit: int = 1, text: str = "the text") -> None:
    sink = registry.open_sink(target)
    sink.state(user)
    sink.begin(user, commit, f"{commit:032x}")
    sink.put_collection(NOTES, Held(next_commit=commit))
    vectors = np.arange(3 * len(ids), dtype=np.float32).reshape(len(ids), 3)
    texts = [f"{text} of {each}" for each in ids]
    sink.put(NOTES, Records(ids, vectors, texts, [{"n": -0.0}] * len(ids), [None] * len(ids)), is_new=False)
    sink.note(NOTES, Held(commit, f"{commit:032x}", 5))
    sink.finish()
    sink.close()


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return parse(f"lancedb://{tmp_path}/lance%20folder")


def test_odd_ids_are_stored_and_deleted_one_by_one(target: Target, tmp_path: Path) -> None:
    """Ids are values and never SQL, and a user's id is one folder."""
    user = "../a user/with: everything'"
    _export(target, user, IDS)
    assert len(list((tmp_path / "lance folder").iterdir())) == 1
    sink = registry.open_sink(target)
    assert sink.state(user) is not None
    assert sink.ids(NOTES) == set(IDS)
    for number, each in enumerate(IDS[:-1], 1):
        sink.delete(NOTES, [each])
        assert sink.count(NOTES) == len(IDS) - number, each
    source = registry.open_source(target, user)
    (batch,) = source.batches(source.collections()[0])
    assert batch.ids == ["kept"] and batch.documents == ["the text of kept"]
    assert repr(batch.metadatas) == "[{'n': -0.0}]" and source.collections() == [NOTES]
    with pytest.raises(UserNotFound):
        registry.open_source(target, "another")


def test_nothing_of_a_deleted_user_is_in_any_file(target: Target, tmp_path: Path) -> None:
    """Neither in the table nor in an older version of it, nor the name of a collection."""
    _export(target, "42", ["first"], text="a very secret text")
    _export(target, "42", ["first", "second"], 2, text="a later secret text")
    sink = registry.open_sink(target)
    sink.state("42")
    assert sink.forget("42", 3) == 2
    left = [path.read_bytes() for path in (tmp_path / "lance folder").rglob("*") if path.is_file()]
    assert left and not any(word in data for data in left for word in (b"secret", b"notes", b"second"))
    state = sink.state("42")
    assert state is not None and (state.commit, state.commit_hash, state.collections) == (3, "", {})
    with pytest.raises(UserNotFound):
        registry.open_source(target, "42")


def test_what_others_made_is_refused_by_name(target: Target, tmp_path: Path) -> None:
    """A table of the same name is left as it is, and so is a file in the folder's place."""
    import lancedb

    folder = tmp_path / "lance folder"
    made = lancedb.connect(str(folder / "42")).create_table("vectorpool", data=[{"mine": 1}])
    with pytest.raises(TargetRefused, match="that vectorpool did not make"):
        registry.open_sink(target).state("42")
    assert made.count_rows() == 1
    (folder / "43").write_text("a file")
    with pytest.raises(TargetRefused, match="refuses"):
        _export(target, "43", ["r"])
