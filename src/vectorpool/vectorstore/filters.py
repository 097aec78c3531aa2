"""Filters as the engine takes them: JSON text, or None for no filter."""

from __future__ import annotations

import json
from typing import Any


def as_json(clause: dict[str, Any] | None) -> str | None:
    """Return a filter as JSON; None for an empty one."""
    return json.dumps(clause) if clause else None
