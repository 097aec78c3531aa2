"""Signatures: the only module that imports PyJWT, and with it cryptography. Imported only if a key is configured.

Which key may verify a token depends on the token's ``alg`` alone, and each key has one algorithm: a secret has HS256,
a public key that of its type. So a token that is signed by HS256 with the text of a public key is verified by no key.
"""

from __future__ import annotations

from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.api_jws import PyJWS

from vectorpool.errors import Unauthenticated

HS256: Final = "HS256"
PUBLIC_ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 16_384

# What ``typ`` may say. Providers sign other things with the same keys, such as notices of a logout.
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_MAX_KEY_ID: Final = 256
_JWS: Final = PyJWS(algorithms=[HS256, *sorted(PUBLIC_ALGORITHMS)])


class PublicKey(msgspec.Struct, frozen=True):
    """One key of a provider, for one algorithm."""

    key_id: str | None
    algorithm: str
    key: Any


class Header(msgspec.Struct, frozen=True):
    """What a token's header says of its signature. Nothing of it is trusted before that is verified."""

    algorithm: str
    key_id: str | None


def read_header(token: bytes) -> Header:
    """Return the header of a token; raise Unauthenticated for one that no configured key could have signed."""
    try:
        header = _JWS.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise _malformed() from None
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or (algorithm != HS256 and algorithm not in PUBLIC_ALGORITHMS):
        raise Unauthenticated("The token's alg is none of HS256, RS256, ES256 and EdDSA. Sign it by one of these.")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= _MAX_KEY_ID):
        raise _malformed()
    if kind is not None and not (isinstance(kind, str) and kind.lower() in _TYPES):
        raise Unauthenticated("The token's typ is not JWT. Send an access token.")
    if "crit" in header or "b64" in header:
        raise Unauthenticated("The token's header has extensions (crit, b64) that are not known here. Leave them out.")
    return Header(algorithm, key_id)


def verify(token: bytes, algorithm: str, key: Any) -> dict[str, Any]:
    """Return the claims of a token whose signature ``key`` verifies; raise Unauthenticated otherwise."""
    try:
        payload = _JWS.decode_complete(token, key, algorithms=[algorithm])["payload"]
    except jwt.InvalidSignatureError:
        raise Unauthenticated("The token's signature is not valid. Send the token whole and unchanged.") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise _malformed() from None
    try:
        claims: dict[str, Any] = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _malformed() from None
    return claims


def sign(claims: dict[str, Any], key_id: str | None, secret: bytes) -> str:
    """Return a token of these claims, signed by HS256."""
    headers = {} if key_id is None else {"kid": key_id}
    return _JWS.encode(msgspec.json.encode(claims), secret, algorithm=HS256, headers={"typ": "JWT", **headers})


def public_key(member: dict[str, Any]) -> PublicKey | None:
    """Return a key of a JWKS document, or None if it is none that may verify a token."""
    algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}.get(str(member.get("kty")))
    key_id = member.get("kid")
    if algorithm is None or member.get("alg", algorithm) != algorithm or member.get("use", "sig") != "sig":
        return None
    if "d" in member or not (key_id is None or (isinstance(key_id, str) and len(key_id) <= _MAX_KEY_ID)):
        return None
    operations = member.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    try:
        key = jwt.PyJWK(member, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError):
        return None
    is_right = (
        (isinstance(key, RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS)
        or (isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1))
        or isinstance(key, Ed25519PublicKey)
    )
    return PublicKey(key_id, algorithm, key) if is_right else None


def _malformed() -> Unauthenticated:
    return Unauthenticated("The token is not a whole JSON web token. Send it as it was given to you.")
