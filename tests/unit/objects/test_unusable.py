"""Which listed keys can be used, and what is said of the others."""

from __future__ import annotations

import logging

import pytest

from vectorpool.objects.bucket import check_key
from vectorpool.objects.unusable import UnusableLog, printable, unusable_because

USABLE = ["a", "a/b", ".hidden/..almost/...", "ünï/名前", "می\u200cخواهم", "a\\b", " a / b ", "x" * 1024, "ö" * 512]
UNUSABLE = {
    "": "longer than",
    "/a": "empty segment",
    "a/": "empty segment",
    "a//b": "empty segment",
    "./a": "a segment '.'",
    "a/../b": "a segment '..'",
    "a/..": "a segment '..'",
    "a\nb": "control character",
    "a\x7f": "control character",
    "a\udcff": "not valid UTF-8",
    "x" * 1025: "longer than",
    "ö" * 513: "longer than",
}


@pytest.mark.parametrize("key", [*USABLE, *UNUSABLE])
def test_a_key_is_usable_exactly_if_calls_take_it(key: str) -> None:
    """The two rules agree, and the reason fits the key."""
    because = unusable_because(key)
    if key in USABLE:
        assert because is None and check_key(key) == key
    else:
        assert because is not None and UNUSABLE[key] in because
        with pytest.raises(ValueError, match="object key"):
            check_key(key)


def test_what_is_told_can_be_printed_and_encoded(caplog: pytest.LogCaptureFixture) -> None:
    """Each key is logged once, with escapes; directory markers and usable keys are not."""
    log = UnusableLog("s3://b")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            log.note(["good", "marker/", "a\nb", "c\udcff"])
    assert [record.getMessage() for record in caplog.records] == [
        "a key in s3://b holds a control character, and is passed over: a\\x0ab",
        "a key in s3://b is not valid UTF-8, and is passed over: c\\udcff",
    ]
    assert printable("ü\x01\udcff").encode() == "ü\\x01\\udcff".encode()
