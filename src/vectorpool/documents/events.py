"""Events of object stores, as far as they name source documents of avatars.

Known shapes: the records of S3 and of MinIO, whose keys are URL-encoded; the same inside a notification of SNS; events
of EventBridge, whose keys are not encoded. An event says only where to look: what it says of the object is not used.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_plus

import msgspec

from vectorpool.errors import UNDECODABLE, InvalidRequest, LimitExceeded, MalformedJson
from vectorpool.names import parse_document_key

MOST_EVENTS: Final = 10_000


class EventObject(msgspec.Struct):
    """The object, by its key."""

    key: str


class EventBucket(msgspec.Struct):
    """The bucket, by its name."""

    name: str


class EventPlace(msgspec.Struct):
    """Where something changed."""

    bucket: EventBucket
    object: EventObject


class EventRecord(msgspec.Struct):
    """One event of S3 or MinIO."""

    s3: EventPlace


class StoreEventBody(msgspec.Struct, omit_defaults=True):
    """Events as S3, MinIO, SNS or EventBridge send them; what else they carry is not read."""

    records: list[EventRecord] | None = msgspec.field(name="Records", default=None)
    # A test of S3, sent when notifications are configured.
    event: str | None = msgspec.field(name="Event", default=None)
    # SNS.
    kind: str | None = msgspec.field(name="Type", default=None)
    message: str | None = msgspec.field(name="Message", default=None)
    # EventBridge.
    detail_type: str | None = msgspec.field(name="detail-type", default=None)
    detail: EventPlace | None = None


EXAMPLE: Final = StoreEventBody(
    records=[EventRecord(EventPlace(EventBucket("bucket"), EventObject("users/42/avatars/7/vectorstore_data/a.md")))]
)


class Changed(msgspec.Struct, frozen=True):
    """The paths of documents that events name, by (user, avatar); ``ignored`` counts events of anything else."""

    paths: dict[tuple[str, str], list[str]]
    ignored: int


def read_events(body: bytes, bucket: str, prefix: str) -> Changed:
    """Return what events say has changed below ``prefix`` of ``bucket``. An empty name of the bucket is any.

    Raises MalformedJson for what is no event, InvalidRequest for an SNS subscription that is to be confirmed, and
    LimitExceeded for more than MOST_EVENTS.
    """
    objects = _objects(body, depth=0)
    if len(objects) > MOST_EVENTS:
        raise LimitExceeded(
            f"The body has {len(objects)} events; at most {MOST_EVENTS} are allowed. Send fewer.",
            extra={"limit": MOST_EVENTS, "limit_name": "events", "count": len(objects)},
        )
    paths = dict[tuple[str, str], dict[str, None]]()
    ignored = 0
    for name, key in objects:
        found = parse_document_key(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if found is None or (bucket and name != bucket):
            ignored += 1
        else:
            paths.setdefault(found[:2], {})[found[2]] = None
    return Changed({of: sorted(names) for of, names in paths.items()}, ignored)


def _objects(body: bytes | str, *, depth: int) -> list[tuple[str, str]]:
    """Return (bucket, key) of each event, as the store has the key."""
    try:
        read = msgspec.json.decode(body, type=StoreEventBody)
    except UNDECODABLE as error:
        raise MalformedJson(f"The body is no event of an object store: {error}.") from None
    if read.records is not None:
        return [(each.s3.bucket.name, unquote_plus(each.s3.object.key)) for each in read.records]
    if read.detail is not None:
        return [(read.detail.bucket.name, read.detail.object.key)]
    if read.kind == "Notification" and read.message is not None and depth == 0:
        return _objects(read.message, depth=1)
    if read.kind == "SubscriptionConfirmation":
        raise InvalidRequest(
            "The subscription of SNS is not confirmed here, because that calls a URL of the body. Open its "
            "SubscribeURL yourself, or confirm it with the AWS command line."
        )
    if read.event is not None:
        return []
    raise MalformedJson("The body is no event of S3, MinIO, SNS or EventBridge. Send their JSON as it is.")
