"""What obstore's errors mean: the store's own text, read for the error of a bucket that it stands for."""

from __future__ import annotations

import re
from typing import Final

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from vectorpool.objects.bucket import (
    BucketDenied,
    BucketElsewhere,
    BucketFull,
    BucketMissing,
    BucketUnavailable,
    ObjectExists,
    ObjectMissing,
)
from vectorpool.objects.regions import BARE_REDIRECT

_EXCERPT: Final = 300
# Texts by which S3, Azure and GCS report a missing bucket in a 404's body. A HEAD's answer has no body.
_NO_BUCKET: Final = ("<Code>NoSuchBucket<", "<Code>ContainerNotFound<", "The specified bucket does not exist")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([^<]{1,80})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,300})</Message>")
# Statuses after which another attempt may help. S3 answers 400 RequestTimeout if a body arrives too slowly.
_AGAIN_STATUS: Final = (408, 409, 425, 429)
_AGAIN_CODES: Final = ("RequestTimeout", "ConditionalRequestConflict", "OperationAborted")
# Azure's codes for a taken key; the status (409) is that of any conflict.
_TAKEN_CODES: Final = ("BlobAlreadyExists",)
_FULL_CODES: Final = ("XMinioStorageFull", "QuotaExceeded", "InsufficientCapacity")
_FULL_STATUS: Final = 507
# How S3 says that the bucket is in another region, with or without a redirect.
_ELSEWHERE_CODES: Final = (
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
)
# Phrases of reqwest and hyper inside obstore's messages, and the text that an operator gets instead.
_NETWORK: Final = (
    ("ConnectionRefused", "connection refused"),
    ("Connection refused", "connection refused"),
    ("dns error", "the host name is not known"),
    ("InvalidCertificate", "the TLS certificate is not accepted; AWS_CA_BUNDLE names further authorities"),
    ("certificate", "the TLS certificate is not accepted"),
    ("TimedOut", "timed out"),
    ("timed out", "timed out"),
    ("ConnectionReset", "connection reset"),
)


def excerpt(error: BaseException) -> str:
    """Return the useful part of an obstore message: the store's own text, or the network's failure."""
    text = str(error)
    if code := _CODE.search(text):
        message = _MESSAGE.search(text)
        return f"{code[1]}: {message[1]}" if message else code[1]
    for told, said in _NETWORK:
        if told in text:
            return said
    if status := re.search(r"status code: (\d{3} [A-Za-z -]{0,40})", text):
        return status[1].strip()
    return " ".join(text.partition("\n\nDebug source")[0].split())[:_EXCERPT]


class NoAnswer(BucketUnavailable):
    """All attempts ended without a usable answer, or the time limit was reached."""


def meaning(url: str, key: str, error: Exception) -> Exception:
    """Return the bucket's own error for one of obstore's: NoAnswer if another attempt may help.

    A store answers 404 for a missing bucket and for a missing object alike; the body's code tells them apart.
    """
    text, where = str(error), f"{url}: {key!r}"
    found, status_found = _CODE.search(text), _STATUS.search(text)
    code, status = found[1] if found else "", int(status_found[1]) if status_found else 0
    if code in _ELSEWHERE_CODES or BARE_REDIRECT in text:
        return BucketElsewhere(f"{where}: {excerpt(error)}")
    if code in _AGAIN_CODES or (status in _AGAIN_STATUS and code not in _TAKEN_CODES):
        return NoAnswer(f"{where}: {excerpt(error)}")
    if isinstance(error, BucketUnavailable):
        return error
    if isinstance(error, AlreadyExistsError | PreconditionError):
        return ObjectExists(f"{where} is taken")
    if any(told in text for told in _NO_BUCKET):
        return BucketMissing(f"{url}: the bucket does not exist ({excerpt(error)})")
    if isinstance(error, FileNotFoundError):
        return ObjectMissing(f"{where} is not there")
    if code in _FULL_CODES or status == _FULL_STATUS:
        return BucketFull(f"{where}: {excerpt(error)}")
    # Listings carry every refusal as a generic error, so the status is read from the text as well. S3 refuses
    # an expired token with 400.
    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError)
    if refused or (400 <= status < 500 and status not in (404, 416)):
        return BucketDenied(f"{where}: {excerpt(error)}")
    if status >= 500 or "HTTP error" in text or any(told in text for told, _ in _NETWORK):
        return NoAnswer(f"{where}: {excerpt(error)}")
    if isinstance(error, BaseError | OSError | ValueError):
        return BucketUnavailable(f"{where}: {excerpt(error)}")
    return error
