"""The real sources: the ids that they make."""

from __future__ import annotations

import uuid

from vectorpool.sources import SYSTEM


def test_ids_are_random_uuids() -> None:
    """Each is a UUID of version 4 in its usual spelling, and no two are equal."""
    made = [SYSTEM.uuid() for _ in range(2000)]
    assert len(set(made)) == len(made)
    for text in made:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 4 and parsed.variant == uuid.RFC_4122
    # No digit of the random part is fixed.
    assert all(len({text[at] for text in made}) > 1 for at in range(36) if at not in (8, 13, 14, 18, 23))
