"""Events of object stores: which documents they name."""

from __future__ import annotations

import json

import pytest

from vectorpool.documents.events import MOST_EVENTS, read_events
from vectorpool.errors import InvalidRequest, LimitExceeded, MalformedJson

KEY = "users/42/avatars/7/vectorstore_data/"


def record(key: str, bucket: str = "b", name: str = "ObjectCreated:Put") -> dict[str, object]:
    return {"eventVersion": "2.1", "eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


def body(*records: dict[str, object], **more: object) -> bytes:
    return json.dumps({**more, "Records": records}).encode()


def test_keys_of_records_are_url_encoded() -> None:
    """The records of S3 and MinIO name documents by encoded keys; what is no document of an avatar is ignored."""
    sent = body(
        record(KEY + "a+b%C3%A9.md"),
        record("users%2F42%2Favatars%2F8%2Fvectorstore_data%2Fdir%2Fc.md", name="ObjectRemoved:Delete"),
        record("users/42/vectorstore/log/1"),
        record("users/../avatars/7/vectorstore_data/x"),
        record(KEY),
        record(KEY + "a", bucket="another"),
        EventName="s3:ObjectCreated:Put",
        Key="b/" + KEY,
    )
    changed = read_events(sent, "b", "")
    assert changed.paths == {("42", "7"): ["a bé.md"], ("42", "8"): ["dir/c.md"]}
    assert changed.ignored == 4


def test_a_prefix_of_the_store_is_taken_off() -> None:
    """Objects beside the prefix are ignored, and a local store takes events of any bucket."""
    changed = read_events(body(record("in/it/" + KEY + "a"), record(KEY + "b")), "b", "in/it/")
    assert (changed.paths, changed.ignored) == ({("42", "7"): ["a"]}, 1)
    assert read_events(body(record(KEY + "a", bucket="any")), "", "").paths == {("42", "7"): ["a"]}


def test_envelopes_are_opened() -> None:
    """SNS carries the records as text; EventBridge has one object, whose key is as it is; a test of S3 names none."""
    sns = json.dumps({"Type": "Notification", "Message": body(record(KEY + "a%20b")).decode()}).encode()
    assert read_events(sns, "b", "").paths == {("42", "7"): ["a b"]}
    bridge = {"detail-type": "Object Created", "detail": {"bucket": {"name": "b"}, "object": {"key": KEY + "a+%20"}}}
    assert read_events(json.dumps(bridge).encode(), "b", "").paths == {("42", "7"): ["a+%20"]}
    assert read_events(b'{"Service": "Amazon S3", "Event": "s3:TestEvent"}', "b", "").paths == {}


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", MalformedJson),
        (b"[]", MalformedJson),
        (b"{}", MalformedJson),
        (b'{"Records": [{"s3": {}}]}', MalformedJson),
        (b'{"Type": "Notification", "Message": "{}"}', MalformedJson),
        (b"\xff", MalformedJson),
        (b'{"Type": "SubscriptionConfirmation", "SubscribeURL": "https://x"}', InvalidRequest),
        (body(*[record(KEY + "a")] * (MOST_EVENTS + 1)), LimitExceeded),
    ],
)
def test_other_bodies_are_refused(sent: bytes, error: type[Exception]) -> None:
    """What is no event says so; SNS is not confirmed by a call of the URL that it sends."""
    with pytest.raises(error):
        read_events(sent, "b", "")
