"""Signed tokens: which key verifies one, and what it then allows; and making one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vectorpool.errors import Unauthenticated
from vectorpool.identity.claims import OWN_NAMES, ClaimNames, Verified, read_claims
from vectorpool.identity.secrets import SigningKeys
from vectorpool.identity.signatures import HS256, read_header, sign, verify

if TYPE_CHECKING:
    # It loads an HTTP client, which only a provider needs.
    from vectorpool.identity.jwks import ProviderKeys

__all__ = ["Verifier", "sign"]


class Verifier:
    """Verifies tokens by this service's own secrets and by the keys of a provider. Belongs to one event loop."""

    def __init__(
        self,
        keys: SigningKeys | None,
        provider: ProviderKeys | None,
        *,
        provider_names: ClaimNames,
        issuer: str | None,
        audiences: frozenset[str],
    ) -> None:
        self.keys = keys
        self.provider = provider
        self._provider_names = provider_names
        self._issuer = issuer
        self._audiences = audiences

    async def verify(self, token: bytes, now_s: float) -> Verified:
        """Return what a token allows. Raises Unauthenticated, or TokenKeysUnavailable while its key is not known."""
        header = read_header(token)
        key: Any = None
        names = OWN_NAMES
        if header.algorithm == HS256:
            key = self.keys.find(header.key_id) if self.keys is not None else None
        elif self.provider is not None:
            names = self._provider_names
            found = await self.provider.find(header.key_id, header.algorithm)
            key = found.key if found is not None else None
        if key is None:
            raise Unauthenticated(
                "The token is signed by a key that is not known here. Send one of this service's issuer."
            )
        claims = verify(token, header.algorithm, key)
        return read_claims(claims, names, issuer=self._issuer, audiences=self._audiences, now_s=now_s)
