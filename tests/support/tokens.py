"""What tests of tokens need: a clock, keys of every kind, tokens right and forged, and a provider of keys."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.api_jws import PyJWS

from vectorpool.identity.authority import Authority
from vectorpool.identity.caller import Caller
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings

SECRET = "0123456789abcdef0123456789abcdef-one"
OTHER_SECRET = "fedcba9876543210fedcba9876543210-two"
ISSUER = "https://issuer.example/"
NOW_S = 1_800_000_000
# Signs any claims, right or not.
_JWS = PyJWS()


class Clock:
    """Sources whose time moves only when a test moves it."""

    def __init__(self) -> None:
        self.now_s = float(NOW_S)
        self.slept: list[float] = []
        self.ids = 0

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s

    def random(self) -> float:
        return 0.5

    def uuid(self) -> str:
        self.ids += 1
        return f"id-{self.ids}"

    async def sleep(self, seconds: float) -> None:
        """Let the time pass at once, and other tasks run."""
        self.slept.append(seconds)
        self.now_s += seconds
        for _ in range(20):
            await asyncio.sleep(0)


def private_key(algorithm: str, number: int = 0) -> Any:
    """Return a private key for an algorithm; another number gives another key."""
    return _private_key(algorithm, number)


@cache
def _private_key(algorithm: str, number: int) -> Any:
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, key_id: str | None = "k", number: int = 0, **members: Any) -> dict[str, Any]:
    """Return the public key as a member of a JWKS document; a member that is None is left out."""
    kind: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[algorithm]
    member = json.loads(kind.to_jwk(private_key(algorithm, number).public_key()))
    member.pop("key_ops", None)
    member |= {"kid": key_id, "alg": algorithm, "use": "sig", **members}
    return {name: value for name, value in member.items() if value is not None}


def pem(algorithm: str = "RS256") -> bytes:
    """Return the public key as PEM, the text that confuses verifiers who take it for a secret."""
    return bytes(private_key(algorithm).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def jwks(*members: dict[str, Any]) -> bytes:
    """Return a JWKS document."""
    return json.dumps({"keys": list(members)}).encode()


def claims_with(**claims: Any) -> dict[str, Any]:
    """Return claims that hold for alice, changed by ``claims``; one that is None is left out."""
    whole = {"sub": "someone", "users": ["alice"], "exp": NOW_S + 600, "iat": NOW_S, **claims}
    return {name: value for name, value in whole.items() if value is not None}


def own_token(claims: dict[str, Any], secret: str = SECRET, key_id: str | None = None, **headers: Any) -> bytes:
    """Return a token that is signed by HS256."""
    headers = {"kid": key_id, **headers} if key_id is not None else headers
    return _JWS.encode(json.dumps(claims).encode(), secret.encode(), algorithm="HS256", headers=headers).encode()


def provider_token(
    claims: dict[str, Any], algorithm: str = "RS256", key_id: str | None = "k", number: int = 0, **headers: Any
) -> bytes:
    """Return a token that the provider signed."""
    headers = {"kid": key_id, **headers} if key_id is not None else headers
    key = private_key(algorithm, number)
    return _JWS.encode(json.dumps(claims).encode(), key, algorithm=algorithm, headers=headers).encode()


def forged(header: Any, claims: Any, secret: bytes | None = None) -> bytes:
    """Return a token with any header, signed by HMAC with SHA-256 if there is a secret, else unsigned."""
    parts = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in (header, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.new(secret, signed, hashlib.sha256).digest() if secret is not None else b""
    return signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


async def opened(clock: Clock, bucket: Bucket | None = None, **settings: Any) -> Authority:
    """Return an opened authority of these settings."""
    authority = Authority(Settings(**settings), clock)
    await authority.open(bucket or MemoryBucket())
    return authority


async def with_provider(clock: Clock, location: str, **settings: Any) -> Authority:
    """Return an opened authority that knows a provider."""
    whole = {"token_issuer": ISSUER, "token_audience": "vectorpool", **settings}
    return await opened(clock, token_jwks=location, **whole)


def provider_claims(**claims: Any) -> dict[str, Any]:
    """Return the claims of a provider's token for alice."""
    return claims_with(iss=ISSUER, aud="vectorpool", **claims)


async def said(authority: Authority, token: bytes) -> Caller | str:
    """Return the caller of a token, or the sentence of its refusal."""
    try:
        return await authority.identify(token)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Provider:
    """A web server on this machine that answers with a JWKS document, or however a test tells it to."""

    def __init__(self) -> None:
        self.body = jwks(jwk("RS256"))
        self.head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.hangs = False
        self.asked = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/jwks.json"

    async def __aenter__(self) -> Provider:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        for writer in self._open:
            writer.close()
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        self._open.add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self.hangs:
                # A few bytes now and then keep a time limit for each read from ending it.
                writer.write(self.head + b"Content-Length: 1000\r\n\r\n")
                while True:
                    writer.write(b" ")
                    await asyncio.sleep(0.05)
            writer.write(self.head + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._open.discard(writer)
