"""Which sink or source a URL means."""

from __future__ import annotations

import importlib
from typing import Any, Final, NamedTuple, cast

from vectorpool.errors import Misconfigured
from vectorpool.export.shapes import Sink, Source
from vectorpool.spelling import meant


class _Kind(NamedTuple):
    """The module and the class of a kind of place, and the extra of this package that brings its driver."""

    module: str
    name: str
    extra: str | None


_KINDS: Final = {
    "postgresql": _Kind("postgresql", "PostgresPlace", None),
}
# Also written so by other programs.
_SAME: Final = {"postgres": "postgresql"}


def is_url(place: str) -> bool:
    """Whether this is the URL of a target or source, not a directory."""
    return "://" in place


def open_sink(url: str) -> Sink:
    """Open a target. Blocking. Raises Misconfigured, TargetUnavailable, TargetRefused."""
    return cast(Sink, _open(url))


def open_source(url: str, user_id: str) -> Source:
    """Open a user's copy as a source. Blocking. Raises Misconfigured, TargetUnavailable, TargetRefused."""
    return cast(Source, _open(url, user_id))


def _open(url: str, user_id: str | None = None) -> Any:
    scheme = url.partition("://")[0].lower()
    kind = _KINDS.get(_SAME.get(scheme, scheme))
    if kind is None:
        raise Misconfigured(
            f"{scheme[:40]!a} is no kind of target.{meant(scheme, _KINDS)} Known are a directory and "
            f"{', '.join(f'{name}://' for name in _KINDS)}."
        )
    try:
        module = importlib.import_module(f"vectorpool.export.{kind.module}")
        return getattr(module, kind.name)(url, user_id)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("vectorpool"):
            raise
        install = f"vectorpool[{kind.extra}]" if kind.extra else str(error.name)
        raise Misconfigured(f"{error.name} is not installed, which {scheme}:// needs. Install {install}.") from None
