"""Signatures of webhooks."""

from __future__ import annotations

import pytest

from vectorpool.webhooks.signatures import headers_of, is_genuine, signature


def test_the_signature_is_that_of_the_standard() -> None:
    """The example of standardwebhooks.com's libraries has the same signature here."""
    made = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["a plain secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64"])
def test_only_the_same_message_is_genuine(secret: str) -> None:
    """Another body, id, secret or time is noticed; an old message is refused."""
    headers = headers_of(secret, "msg_1", 1000, b"{}")
    assert is_genuine(secret, headers, b"{}", 1000 + 299)
    assert not is_genuine(secret, headers, b"{} ", 1000)
    assert not is_genuine(secret, headers, b"{}", 1000 + 301)
    assert not is_genuine(secret + "x", headers, b"{}", 1000)
    assert not is_genuine(secret, {**headers, "webhook-id": "msg_2"}, b"{}", 1000)
    assert not is_genuine(secret, {**headers, "webhook-timestamp": "1001"}, b"{}", 1000)
    assert not is_genuine(secret, headers_of(None, "msg_1", 1000, b"{}"), b"{}", 1000)
