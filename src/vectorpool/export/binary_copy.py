"""Rows of records in PostgreSQL's binary COPY format.

The format is PostgreSQL's own (its documentation of COPY, File Formats); a vector is pgvector's: its dimension and a
zero, two bytes each, and floats of four bytes. numpy makes the payload of a whole batch at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
TRAILER: Final = struct.pack("!h", -1)

_FLOAT4: Final = 700
_LENGTH: Final = struct.Struct("!i")
_FIELDS: Final = struct.Struct("!h")
_NULL: Final = _LENGTH.pack(-1)


def vectors(rows: NDArray[np.float32]) -> list[bytes]:
    """Return each row of float32[n, d] as pgvector's ``vector``."""
    head = struct.pack("!hh", rows.shape[1], 0)
    return [head + row.tobytes() for row in rows.astype(">f4")]


def arrays(rows: NDArray[np.float32]) -> list[bytes]:
    """Return each row of float32[n, d] as ``real[]``."""
    head = struct.pack("!iiiii", 1, 0, _FLOAT4, rows.shape[1], 1)
    items = np.empty(rows.shape, [("length", ">i4"), ("value", ">f4")])
    items["length"] = 4
    items["value"] = rows
    return [head + row.tobytes() for row in items]


def row(fields: Sequence[bytes | None]) -> bytes:
    """Return one row of fields, each in its type's binary form; None is NULL."""
    parts = [_FIELDS.pack(len(fields))]
    for field in fields:
        if field is None:
            parts.append(_NULL)
        else:
            parts.append(_LENGTH.pack(len(field)))
            parts.append(field)
    return b"".join(parts)


def jsonb(text: str | None) -> bytes | None:
    """Return JSON text as ``jsonb``."""
    return None if text is None else b"\x01" + text.encode()
