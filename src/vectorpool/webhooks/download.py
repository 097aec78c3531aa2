"""Fetch what a caller's URL names, with the same care as a message to a webhook."""

from __future__ import annotations

import asyncio
from typing import Final

import httpx

from vectorpool.errors import DownloadFailed, LimitExceeded
from vectorpool.version import __version__
from vectorpool.webhooks.addresses import AddressGuard

_TIMEOUT_S: Final = 60.0


async def download(url: str, guard: AddressGuard, max_bytes: int, timeout_s: float = _TIMEOUT_S) -> bytes:
    """Return the body at a URL: one attempt, no redirects, no proxies.

    Raises WebhookRefused for an address that is not allowed, LimitExceeded for more than ``max_bytes``, DownloadFailed.
    """
    target = guard.target(url)
    headers = {"host": target.authority, "accept-encoding": "identity", "user-agent": f"vectorpool/{__version__}"}
    try:
        async with asyncio.timeout(timeout_s):
            address = (await guard.resolve(target))[0]
            async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout_s) as client:
                # Certificates are for the name, though the connection is to the address.
                options = {"sni_hostname": target.host}
                async with client.stream("GET", target.at(address), headers=headers, extensions=options) as response:
                    if response.status_code != 200:
                        raise DownloadFailed(
                            f"The server of the URL answered {response.status_code}. Send a URL that can be read."
                        )
                    return await _bounded(response, max_bytes)
    except TimeoutError:
        raise DownloadFailed(f"The server of the URL did not answer within {timeout_s:g} s.") from None
    except (httpx.HTTPError, OSError) as error:
        raise DownloadFailed(
            f"The URL cannot be read ({type(error).__name__}). Send one that this service can reach."
        ) from None


async def _bounded(response: httpx.Response, most: int) -> bytes:
    read = bytearray()
    async for piece in response.aiter_raw():
        read += piece
        if len(read) > most:
            raise LimitExceeded(
                f"What the URL names has more than {most} bytes (max_document_bytes). Split it.",
                extra={"limit": most, "limit_name": "max_document_bytes"},
            )
    return bytes(read)
