"""The authority over tokens that no file lists: it verifies, makes and revokes signed ones, and knows the admin key.

Which of them there are is a matter of the settings. What verifies signatures is imported when the authority is opened,
and only if a key is configured; a service without one pays nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import importlib
import ipaddress
import logging
import math
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from cachetools import LRUCache

from vectorpool.environment import local_path
from vectorpool.errors import (
    Misconfigured,
    NoTokenSecret,
    StoreUnavailable,
    TokenKeysUnavailable,
    Unauthenticated,
    VectorpoolError,
)
from vectorpool.identity.caller import Caller
from vectorpool.identity.claims import LEEWAY_S, Verified, names_of
from vectorpool.identity.grants import Grant, Minted, claims_of
from vectorpool.identity.revocations import Revocation, Revocations
from vectorpool.identity.secrets import SigningKeys, digest_of_key, parse_keys, read_secret
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.supervision import Supervisor, rest

if TYPE_CHECKING:
    # Imported with a key; see ``open``.
    from vectorpool.identity.jwks import ProviderKeys
    from vectorpool.identity.signed_tokens import Verifier

MAX_TOKEN_BYTES: Final = 16 * 1024
# Tokens whose signatures need not be verified again.
_MAX_VERIFIED: Final = 4096
# A changed file is seen within this time.
_LOOK_EVERY_S: Final = 10.0

_OPERATOR: Final = Caller("admin-key", is_admin=True)
_WORKER: Final = Caller("worker", users=None)

_logger = logging.getLogger(__name__)


class Authority:
    """Knows whose a token is that no file lists. Belongs to one event loop, but for the constructor and ``mint``.

    Raises Misconfigured for settings that cannot be meant.
    """

    def __init__(self, settings: Settings, sources: Sources = SYSTEM) -> None:
        self._settings = settings
        self._sources = sources
        self._keys, self._admin_key = self._read_secrets()
        self._audiences = frozenset(part.strip() for part in (settings.token_audience or "").split(",") if part.strip())
        self._issuer = settings.token_issuer or None
        self._jwks = _location(settings.token_jwks) if settings.token_jwks else None
        if self._jwks is not None and not (self._issuer and self._audiences):
            raise Misconfigured(
                "token_jwks needs token_issuer and token_audience: the keys of a provider sign the tokens of all its "
                "customers. Set both to what your tokens have in iss and aud."
            )
        self._verifier: Verifier | None = None
        self._revocations: Revocations | None = None
        self._verified: LRUCache[bytes, tuple[Verified, int]] = LRUCache(_MAX_VERIFIED)
        self._generation = 0
        self._worker_key: bytes | None = None

    def admit_worker(self, key: str) -> None:
        """Take a key of this start for the instance's own worker, which may touch every user."""
        self._worker_key = hashlib.sha256(key.encode()).digest()

    @property
    def is_configured(self) -> bool:
        """Whether the settings name a key, so that every request needs a token."""
        return self.has_signed_tokens or self._admin_key is not None

    @property
    def has_signed_tokens(self) -> bool:
        """Whether the settings name a key that verifies signed tokens."""
        return self._keys is not None or self._jwks is not None

    def describe(self) -> list[str]:
        """Return the kinds of tokens that are known here, for the text at the start."""
        kinds = [("JWT by secret", self._keys), ("JWT by JWKS", self._jwks), ("an admin key", self._admin_key)]
        return [name for name, key in kinds if key is not None]

    async def prepare(self) -> None:
        """Import what verifies, and read the keys; needs no bucket. Raises Misconfigured."""
        if not self.has_signed_tokens or self._verifier is not None:
            return
        verifier = await asyncio.to_thread(self._make_verifier)
        if verifier.provider is not None:
            await verifier.provider.open()
        self._verifier = verifier

    async def open(self, bucket: Bucket) -> None:
        """Read the keys, if ``prepare`` did not, and the revoked tokens. Raises Misconfigured, StoreUnavailable."""
        await self.prepare()
        if self._verifier is not None:
            revocations = Revocations(bucket, self._sources)
            await revocations.load()
            self._revocations = revocations

    def _make_verifier(self) -> Verifier:
        signed_tokens = importlib.import_module("vectorpool.identity.signed_tokens")
        provider: ProviderKeys | None = None
        if self._jwks is not None:
            jwks = importlib.import_module("vectorpool.identity.jwks")
            provider = jwks.ProviderKeys(self._jwks, self._settings.token_jwks_refresh_s, self._sources)
        verifier: Verifier = signed_tokens.Verifier(
            self._keys,
            provider,
            provider_names=names_of(self._settings),
            issuer=self._issuer,
            audiences=self._audiences,
        )
        return verifier

    def watch(self, supervisor: Supervisor) -> None:
        """Start the background tasks that keep keys and revoked tokens current, after ``open``."""
        if self._settings.token_secret_file or self._settings.admin_key_file:
            supervisor.start("token secrets", self._watch_secrets)
        if self._revocations is not None:
            supervisor.start("revoked tokens", self._revocations.watch)
        if self._verifier is not None and (provider := self._verifier.provider) is not None:
            supervisor.start("token keys", lambda: provider.watch(_LOOK_EVERY_S))

    # --- Callers -------------------------------------------------------------------------------------

    async def identify(self, token: bytes) -> Caller:
        """Return the caller of a token. Raises Unauthenticated, or TokenKeysUnavailable while its key is not known.

        The signature of a token is verified once, and again when the keys have changed; its time, and whether it is
        revoked, are checked at every request.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated(f"The token is longer than {MAX_TOKEN_BYTES} bytes. Put fewer claims into it.")
        digest = hashlib.sha256(token).digest()
        if self._admin_key is not None and hmac.compare_digest(digest, self._admin_key):
            return _OPERATOR
        if self._worker_key is not None and hmac.compare_digest(digest, self._worker_key):
            return _WORKER
        if not self.has_signed_tokens or token.count(b".") != 2:
            raise unknown_token()
        if self._verifier is None or self._revocations is None:
            raise TokenKeysUnavailable("The keys of tokens are not read yet. Try again in a moment.")
        now_s = self._sources.now_ms() / 1000
        known, generation = self._verified.get(digest), self._current()
        if known is None or known[1] != generation:
            verified = await self._verifier.verify(token, now_s)
            self._verified[digest] = verified, generation
        else:
            verified = known[0]
            if now_s >= verified.expires_s + LEEWAY_S:
                del self._verified[digest]
                raise Unauthenticated("The token has expired. Send a new one.")
        token_id = verified.caller.token_id
        if token_id is not None and self._revocations.has(token_id):
            raise Unauthenticated("The token was revoked. Send another one.")
        return verified.caller

    def service_of(self, token: bytes) -> Caller | None:
        """Return the caller that is the service itself if this is its key, else None."""
        if self._worker_key is None or len(token) > MAX_TOKEN_BYTES:
            return None
        return _WORKER if hmac.compare_digest(hashlib.sha256(token).digest(), self._worker_key) else None

    def _current(self) -> int:
        provider = self._verifier.provider if self._verifier is not None else None
        return self._generation + (provider.generation if provider is not None else 0)

    # --- Making and revoking -------------------------------------------------------------------------

    def mint(self, grant: Grant) -> Minted:
        """Return a new token, signed by the first secret. Raises NoTokenSecret, InvalidRequest or InvalidId."""
        if self._keys is None:
            raise NoTokenSecret(
                "No secret is set that could sign a token. Set VECTORPOOL_TOKEN_SECRET or VECTORPOOL_TOKEN_SECRET_FILE "
                "to the output of `openssl rand -base64 48`."
            )
        now_s = self._sources.now_ms() // 1000
        token_id = self._sources.uuid()
        claims = claims_of(grant, token_id, now_s)
        if self._issuer is not None:
            claims["iss"] = self._issuer
        if self._audiences:
            claims["aud"] = sorted(self._audiences)
        key_id, secret = self._keys.first
        signed_tokens: Any = importlib.import_module("vectorpool.identity.signed_tokens")
        token: str = signed_tokens.sign(claims, key_id, secret)
        if len(token) > MAX_TOKEN_BYTES:
            raise grant.too_large(MAX_TOKEN_BYTES)
        return Minted(token, token_id, claims["exp"] * 1000, key_id)

    async def revoke(self, token_id: str, expires_s: float | None) -> Revocation:
        """Revoke a token by its id until it expires. Raises NoTokenSecret, LimitExceeded, StoreUnavailable."""
        if self._revocations is None:
            raise NoTokenSecret(
                "No signed token is valid here, so there is none to revoke. Set a secret or a JWKS first."
            )
        return await self._revocations.revoke(token_id, None if expires_s is None else expires_s + math.ceil(LEEWAY_S))

    # --- Secrets -------------------------------------------------------------------------------------

    def _read_secrets(self) -> tuple[SigningKeys | None, bytes | None]:
        settings = self._settings
        keys = parse_keys(
            read_secret("token_secret", settings.token_secret, settings.token_secret_file), "token_secret"
        )
        admin = digest_of_key(read_secret("admin_key", settings.admin_key, settings.admin_key_file), "admin_key")
        return keys, admin

    async def reload(self) -> None:
        """Read the secrets, the keys of the provider and the list of revoked tokens again.

        What cannot be read changes nothing, and the log says why.
        """
        await self._reload_secrets()
        if self._verifier is not None and self._verifier.provider is not None:
            await self._verifier.provider.renew()
        if self._revocations is not None:
            try:
                await self._revocations.load()
            except StoreUnavailable as error:
                _logger.error("the revoked tokens that were known stay: %s", error.detail)

    async def _reload_secrets(self) -> None:
        try:
            keys, admin = await asyncio.to_thread(self._read_secrets)
        except Misconfigured as error:
            _logger.error("the secrets that were known stay: %s", error.detail)
            return
        if keys != self._keys:
            self._keys = keys
            self._generation += 1
            if self._verifier is not None:
                self._verifier.keys = keys
            _logger.info("the secrets of tokens were read again")
        self._admin_key = admin

    async def _watch_secrets(self) -> None:
        while True:
            await rest(self._sources, _LOOK_EVERY_S)
            await self._reload_secrets()


def unknown_token() -> VectorpoolError:
    """Return the error of a token that nothing here knows."""
    return Unauthenticated("The token is not known here. Send one that is, whole and as it was given to you.")


def _location(location: str) -> str:
    """Return the URL or the path of a JWKS. Raises Misconfigured for a URL that anybody on the way could answer."""
    if "://" not in location:
        return local_path("token_jwks", location)
    url = urlsplit(location)
    if url.hostname and (url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.hostname))):
        return location
    raise Misconfigured(
        "token_jwks is neither an https:// URL nor a file. Keys that come unencrypted can be replaced on their way: "
        "use https, or give the keys as a file."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
