"""Send one message to a webhook, and again a bounded number of times while that may help.

408, 425, 429, 5xx, time-outs and broken connections are repeated after a wait that doubles, has jitter, and is at least
what Retry-After says, up to ``_LONGEST_WAIT_S``. Any other answer outside of 2xx is final: a redirect is not followed,
since it would name an address that the caller did not. An answer's body is read up to a bound, and not unpacked. A
message that was not delivered comes back as a ``Delivery`` that says why: the sender keeps it as the dead letter.

Proxies of the environment are not used, because a proxy would look the name up by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import msgspec

from vectorpool.errors import LimitExceeded, WebhookRefused
from vectorpool.sources import SYSTEM, Sources
from vectorpool.version import __version__
from vectorpool.webhooks.addresses import Address, AddressGuard, Target
from vectorpool.webhooks.signatures import headers_of

logger = logging.getLogger(__name__)

MAX_EVENT_BYTES: Final = 32 * 1024**2
MAX_ANSWER_BYTES: Final = 64 * 1024
ATTEMPTS: Final = 6
_ATTEMPT_S: Final = 15.0
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0
_AGAIN: Final = frozenset({408, 425, 429})


class Event(msgspec.Struct, frozen=True):
    """A message. ``id`` is the same in all attempts, so that a receiver knows a repeat; ``body`` is JSON."""

    id: str
    body: bytes


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a message. ``status`` is of the last answer, 0 without one; ``reason`` says why it failed.

    ``answer`` is the body of the last answer, None if it was larger than the bound.
    """

    delivered: bool
    attempts: int
    status: int = 0
    reason: str = ""
    answer: bytes | None = b""


class _Attempt(msgspec.Struct, frozen=True):
    status: int = 0
    reason: str = ""
    answer: bytes | None = b""
    wait_s: float = 0.0

    @property
    def may_be_repeated(self) -> bool:
        return self.status == 0 or self.status in _AGAIN or self.status >= 500


def event(kind: str, data: Any, sources: Sources = SYSTEM) -> Event:
    """Return a message with the body ``{"type": kind, "timestamp": RFC 3339, "data": data}``."""
    now = sources.now_ms()
    body = {"type": kind, "timestamp": _rfc3339(now), "data": data}
    return Event(f"msg_{sources.uuid().replace('-', '')}", msgspec.json.encode(body))


async def deliver(
    url: str,
    event: Event,
    secret: str | None,
    *,
    guard: AddressGuard,
    headers: Mapping[str, str] | None = None,
    attempts: int = ATTEMPTS,
    attempt_s: float = _ATTEMPT_S,
    first_wait_s: float = _FIRST_WAIT_S,
    max_answer_bytes: int = MAX_ANSWER_BYTES,
    sources: Sources = SYSTEM,
) -> Delivery:
    """Send ``event`` to ``url``, signed with ``secret``, at most ``attempts`` times; return what became of it.

    Never raises for what a server or the network does: the answer says so. Raises LimitExceeded for an event of more
    than MAX_EVENT_BYTES. ``headers`` are sent too.
    """
    if len(event.body) > MAX_EVENT_BYTES:
        raise LimitExceeded(
            f"The message to a webhook has {len(event.body)} bytes; at most {MAX_EVENT_BYTES} are allowed.",
            extra={"limit": MAX_EVENT_BYTES, "limit_name": "bytes of a webhook's message", "count": len(event.body)},
        )
    last, wait_s, made = _Attempt(reason="was not tried"), first_wait_s, 0
    try:
        target = guard.target(url)
        async with _client() as client:
            for made in range(1, attempts + 1):
                sent = _headers(target, event, secret, headers, sources)
                last = await _attempt(client, target, made, event.body, sent, guard, attempt_s, max_answer_bytes)
                if 200 <= last.status < 300:
                    return Delivery(True, made, last.status, answer=last.answer)
                if not last.may_be_repeated or made == attempts:
                    break
                pause_s = max(wait_s * (0.5 + sources.random()), last.wait_s)
                await sources.sleep(min(pause_s, _LONGEST_WAIT_S))
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
    except WebhookRefused as error:
        last = _Attempt(reason=error.detail)
    # Not the URL: its path often is the key of the receiver.
    logger.warning("a message to a webhook was not delivered after %d attempts: %s", made, last.reason)
    return Delivery(False, made, last.status, last.reason, last.answer)


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        trust_env=False, follow_redirects=False, limits=httpx.Limits(max_connections=1, max_keepalive_connections=0)
    )


def _headers(
    target: Target, event: Event, secret: str | None, more: Mapping[str, str] | None, sources: Sources
) -> dict[str, str]:
    return {
        **(more or {}),
        "host": target.authority,
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": f"vectorpool/{__version__}",
        **headers_of(secret, event.id, sources.now_ms() // 1000, event.body),
    }


async def _attempt(
    client: httpx.AsyncClient,
    target: Target,
    number: int,
    body: bytes,
    headers: dict[str, str],
    guard: AddressGuard,
    attempt_s: float,
    max_answer_bytes: int,
) -> _Attempt:
    """Make one attempt, to one of the addresses that the name has now. Raises WebhookRefused."""
    try:
        async with asyncio.timeout(attempt_s):
            addresses = await guard.resolve(target)
            address: Address = addresses[(number - 1) % len(addresses)]
            request = client.build_request(
                "POST",
                target.at(address),
                content=body,
                headers=headers,
                timeout=attempt_s,
                # Certificates are for the name, though the connection is to the address.
                extensions={"sni_hostname": target.host},
            )
            response = await client.send(request, stream=True)
            try:
                return await _answer(response, max_answer_bytes)
            finally:
                await response.aclose()
    except TimeoutError:
        return _Attempt(reason=f"the server did not answer within {attempt_s:g} s")
    except (httpx.HTTPError, OSError) as error:
        return _Attempt(reason=f"the connection failed ({type(error).__name__})")


async def _answer(response: httpx.Response, most: int) -> _Attempt:
    read: bytearray | None = bytearray()
    async for piece in response.aiter_raw():
        assert read is not None
        read += piece
        if len(read) > most:
            # What was taken is taken, whatever else the server says.
            read = None
            break
    status = response.status_code
    reason = "" if 200 <= status < 300 else f"the server answered {status}"
    if 300 <= status < 400:
        reason += "; redirects are not followed"
    answer = None if read is None else bytes(read)
    return _Attempt(status, reason, answer, _retry_after_s(response.headers.get("retry-after", "")))


def _retry_after_s(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


def _rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
