"""A running service as the command line asks it: its URL, its token, its problems as errors of one sentence."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from vectorpool import __version__
from vectorpool.cli.console import err
from vectorpool.errors import ErrorWire, Misconfigured, VectorpoolError

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_MAX_TOKEN_BYTES: Final = 64 * 1024
# An operation of an hour is waited for; a service that says nothing at all is not.
_TIMEOUT: Final = httpx.Timeout(10.0, read=3700.0, write=300.0)


def token_of(token_file: Path | None) -> str | None:
    """Return the token of a file or of the environment; None if there is none. Raises Misconfigured."""
    if token_file is None:
        return os.environ.get("VECTORPOOL_TOKEN") or None
    try:
        with token_file.open("rb") as file:
            text = file.read(_MAX_TOKEN_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"The token file {token_file} cannot be read: {error}.") from None
    if not text or any(char.isspace() for char in text):
        raise Misconfigured(f"The token file {token_file} does not hold one token. Put it there, alone.")
    return text


def check_url(url: str, token: str | None) -> str:
    """Return a service's URL; raise Misconfigured if it is none, and warn of a token that would travel in the clear."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise Misconfigured(f"--service {url} is not the URL of a service. Write it as {DEFAULT_URL}.")
    if token and parts.scheme == "http" and not _is_loopback(parts.hostname):
        err.print(f"The token is sent to {parts.hostname} unencrypted. Use https:// if others may listen.")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ServiceClient:
    """One service. Raises VectorpoolError with the service's own sentence."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self.url = url

    async def ask(self, method: str, path: str, *, ok: tuple[int, ...] = (), **options: Any) -> Any:
        """Return the answer of a request, decoded; statuses in ``ok`` are answers too."""
        response = await self._send(method, path, **options)
        if response.status_code >= 400 and response.status_code not in ok:
            raise problem_of(response)
        try:
            return msgspec.json.decode(response.content)
        except msgspec.DecodeError:
            raise VectorpoolError(f"{self.url} answers what is not JSON. Is it vectorpool?") from None

    async def text(self, path: str) -> str:
        """Return the answer of a GET as text."""
        response = await self._send("GET", path)
        if response.status_code >= 400:
            raise problem_of(response)
        return response.text

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return await self._client.request(method, self.url + path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise VectorpoolError(
                f"The service at {self.url} does not answer: {str(error) or type(error).__name__}. Is it running there?"
            ) from None

    @asynccontextmanager
    async def stream(self, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        """Yield the answer of a GET while it arrives."""
        try:
            async with self._client.stream("GET", self.url + path, **options) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise problem_of(response)
                yield response
        except httpx.HTTPError as error:
            raise VectorpoolError(
                f"The answer of {self.url} broke off: {error}. What was written is not whole."
            ) from None


def problem_of(response: httpx.Response) -> VectorpoolError:
    """Return the error that a response carries."""
    try:
        wire = msgspec.json.decode(response.content, type=ErrorWire)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return VectorpoolError(f"{response.url} answers {response.status_code}, and no reason. Is it vectorpool?")
    asked = response.headers.get("x-request-id")
    error = VectorpoolError.from_wire(wire)
    error.detail += f" [{wire.code}{f', request {asked}' if asked else ''}]"
    return error


@asynccontextmanager
async def open_client(url: str, token_file: Path | None) -> AsyncIterator[ServiceClient]:
    """Yield a client of a service, and close it. Raises Misconfigured."""
    token = token_of(token_file)
    url = check_url(url, token)
    headers = {"User-Agent": f"vectorpool/{__version__}"} | ({"Authorization": f"Bearer {token}"} if token else {})
    async with httpx.AsyncClient(headers=headers, timeout=_TIMEOUT, follow_redirects=False) as client:
        yield ServiceClient(client, url)
