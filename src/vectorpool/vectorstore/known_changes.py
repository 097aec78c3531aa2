"""What the engine knows of changes in a directory, as the commit log's captures take it."""

from __future__ import annotations

import msgspec

from vectorpool.commitlog.recorded_capture import Known
from vectorpool.engine.directory_state import DirectoryState
from vectorpool.names import CHROMA_DATABASE_FILE


def known_changes(state: DirectoryState) -> Known | None:
    """Return what may differ from the last commit's image; None if anything may."""
    changed = state.changed
    if changed is None or changed.mark is None:
        return None
    return Known(CHROMA_DATABASE_FILE, changed.numbers, msgspec.structs.astuple(changed.mark), changed.zeroed)
