"""URLs of targets: their kinds, and how they are shown without credentials."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import msgspec

from vectorpool.errors import InvalidTarget
from vectorpool.spelling import meant

# The kind of each scheme.
SCHEMES: Final = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "parquet": "parquet",
    "s3": "parquet",
    "chroma+http": "chroma",
    "chroma+https": "chroma",
    "qdrant+http": "qdrant",
    "qdrant+https": "qdrant",
    "lancedb": "lancedb",
    "milvus": "milvus",
    "milvus+http": "milvus",
    "milvus+https": "milvus",
}
# Parameters whose values may be shown; those of any other are not.
_PLAIN: Final = frozenset(
    {"tenant", "sslmode", "region", "scheme", "endpoint_override", "connect_timeout", "hostaddr", "index"}
)
_HIDDEN: Final = "***"
_MAX_URL: Final = 4096


class Target(msgspec.Struct, frozen=True):
    """A target. ``url`` may hold credentials; ``shown`` never does."""

    kind: str
    url: str
    shown: str
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Target({self.shown})"

    def clean(self, text: str) -> str:
        """Return a text of a driver, on one line, bounded, and without this target's credentials."""
        for secret in self.secrets:
            text = text.replace(secret, _HIDDEN)
        return " ".join(text.split())[:400]

    @property
    def parts(self) -> SplitResult:
        """The parts of the URL."""
        return urlsplit(self.url)

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of the URL."""
        return dict(parse_qsl(self.parts.query, keep_blank_values=True))

    @property
    def base(self) -> str:
        """The address of a server of HTTP: scheme, host, port and path."""
        parts = self.parts
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme.partition('+')[2]}://{host}{port}{parts.path.rstrip('/')}"

    @property
    def password(self) -> str:
        """The password of the URL, decoded; empty if there is none."""
        return unquote(self.parts.password or "")


def parse(text: str) -> Target:
    """Return the target that a URL or a path names; raise InvalidTarget.

    A path that ends with ``.parquet`` is a Parquet file; any other is a directory, as plain Chroma opens it.
    """
    if "://" not in text:
        if not text or "\0" in text or len(text) > _MAX_URL:
            raise InvalidTarget("The target is empty, or no path. Name a directory or a URL.")
        return Target("parquet" if Path(text).suffix == ".parquet" else "directory", text, text)
    scheme = text.partition("://")[0].lower()
    kind = SCHEMES.get(scheme)
    if kind is None:
        # What follows the scheme may hold credentials.
        raise InvalidTarget(
            f"The scheme {scheme[:40]!r} of the target is not known.{meant(scheme, SCHEMES)} Use a path, or one of "
            f"{', '.join(f'{each}://' for each in SCHEMES)}."
        )
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise InvalidTarget(f"The {scheme}:// URL of the target is malformed: check its host and port.") from None
    if len(text) > _MAX_URL or any(ord(character) < 33 for character in text):
        raise InvalidTarget(f"The {scheme}:// URL of the target has spaces or control characters, or is too long.")
    if (kind in ("chroma", "qdrant") or scheme.startswith("milvus+")) and not parts.hostname:
        raise InvalidTarget(f"The {scheme}:// URL of the target names no host. Write {scheme}://HOST:PORT.")
    if scheme == "s3" and not parts.netloc:
        raise InvalidTarget("The s3:// URL of the target names no bucket. Write s3://BUCKET/FOLDER.")
    if scheme == "parquet" and not (parts.netloc + parts.path):
        raise InvalidTarget("The parquet:// URL of the target names no path. Write parquet:///FOLDER or FILE.parquet.")
    if scheme == "lancedb" and not (parts.netloc + parts.path).strip("/"):
        raise InvalidTarget("The lancedb:// URL of the target names no folder. Write lancedb:///FOLDER.")
    if scheme == "milvus" and Path(unquote(parts.netloc + parts.path)).suffix != ".db":
        # The client's own rule, so that it opens what was exported by the same name.
        raise InvalidTarget("The milvus:// URL of the target names no folder that ends with .db: milvus:///FOLDER.db.")
    return Target(kind, text, _shown(parts), _secrets(parts))


def _shown(parts: SplitResult) -> str:
    place = parts.netloc.rpartition("@")[2]
    query = "&".join(
        f"{quote(name)}={quote(value, safe='/:') if name in _PLAIN else _HIDDEN}"
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    return f"{parts.scheme}://{place}{parts.path}{'?' + query if query else ''}"


def _secrets(parts: SplitResult) -> tuple[str, ...]:
    found = {parts.netloc.rpartition("@")[0], parts.password or "", unquote(parts.password or "")}
    found |= {value for name, value in parse_qsl(parts.query) if name not in _PLAIN}
    # As they are written, too.
    raw = (each.partition("=") for each in parts.query.split("&"))
    found |= {value for name, _, value in raw if name not in _PLAIN}
    if not parts.password and parts.username and parts.scheme not in ("postgresql", "postgres"):
        found |= {parts.username, unquote(parts.username)}
    return tuple(sorted((each for each in found if each), key=len, reverse=True))
