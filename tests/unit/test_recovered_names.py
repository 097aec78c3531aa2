"""Names of collections that a recovery brings back beside others."""

from __future__ import annotations

from vectorpool.names import check_collection_name
from vectorpool.operating import CollectionPlace, RecoveredCollection


def test_names_are_valid_and_of_one_collection_each() -> None:
    """Long names are cut to Chroma's bound, and none is given twice, nor one that is taken; databases are apart."""
    long = "n" * 512
    found = [
        CollectionPlace("a", "abc"),
        CollectionPlace("b", "abc"),
        CollectionPlace("a", long),
        CollectionPlace("a", long[:-1] + "m"),
        CollectionPlace("a", "abc-recovered-7"),
    ]
    taken = [CollectionPlace("a", "abc-recovered-7"), CollectionPlace("b", "abc-recovered-7-2")]
    named = RecoveredCollection.named(found, taken, 7)
    assert [(each.database, each.collection) for each in named] == [(each.database, each.collection) for each in found]
    given = [(each.database, each.recovered_as) for each in named]
    assert given[:2] == [("a", "abc-recovered-7-2"), ("b", "abc-recovered-7")]
    assert given[4] == ("a", "abc-recovered-7-recovered-7")
    assert len({*given, *((each.database, each.collection) for each in taken)}) == len(given) + len(taken)
    for _, name in given:
        assert check_collection_name(name) == name
    assert given[2][1].startswith("nnn") and given[2][1].endswith("-recovered-7") and len(given[2][1]) == 512
