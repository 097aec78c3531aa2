"""How the engine is opened on a directory: by the settings, and by whether the fast paths know its schema."""

from __future__ import annotations

import logging
from functools import cache

from vectorpool.engine.index_rows import IndexRows
from vectorpool.engine.records import EngineOptions
from vectorpool.engine.version import Schema, installed_version, is_tested
from vectorpool.platform import descriptors
from vectorpool.settings import Settings

_logger = logging.getLogger(__name__)


def engine_options(settings: Settings, schema: Schema | None, index_rows: IndexRows | None) -> EngineOptions:
    """Return the options for a schema, which is None if SQLite cannot read it: then the fast paths are off."""
    is_known = schema is not None and is_tested(schema.fingerprint)
    if schema is not None and not is_known and (settings.fast_reads or settings.fast_writes):
        _log_untested(schema.fingerprint.hex(), installed_version())
    return EngineOptions(
        fast_reads=settings.fast_reads and is_known,
        fast_writes=settings.fast_writes and is_known,
        exact_bytes=settings.exact_bytes,
        write_slice_ms=settings.write_slice_ms,
        max_indexes=descriptors.indexes_of_a_slot(settings.open_slots),
        index_rows=index_rows,
        is_untested=not is_known,
    )


@cache
def _log_untested(fingerprint: str, version: str) -> None:
    """Log once in a process, for each schema, why its vectorstores are slower."""
    _logger.warning(
        "a vectorstore has a schema that this version was not tested with (fingerprint %s, chromadb %s): Chroma itself "
        "reads and writes it, without the fast paths",
        fingerprint,
        version,
    )
