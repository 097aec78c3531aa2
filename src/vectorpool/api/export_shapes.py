"""Bodies of exports and imports by name."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

_TargetName = Annotated[
    str, Meta(max_length=64, description="A name of the operator's setting targets.", examples=["warehouse"])
]


class ExportBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """An export. Without ``at`` it is of the newest commit."""

    target: _TargetName
    at: Annotated[int, Meta(ge=1, description="Of this commit.")] | None = None


class ImportBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """An import. Without ``source_user`` it takes what the source holds of the user in the path."""

    source: _TargetName
    source_user: Annotated[str, Meta(description="Another user whose records are taken.")] | None = None
