"""File descriptors: how many a process may have, and how many open vectorstores they suffice for.

The usual soft limit, 1,024, is for select(), which this program does not call, so it is raised to the hard limit. Where
that is low, slots and loaded indexes follow it: a process that runs out of descriptors can open no file, and SQLite and
Chroma take that for damage.
"""

from __future__ import annotations

import logging
import resource
from typing import Final

import msgspec

from vectorpool.errors import Misconfigured
from vectorpool.settings import Settings

_log = logging.getLogger(__name__)

# An open vectorstore with one loaded index, counted after reads and writes, and each further index.
_SLOT: Final = 17
_INDEX: Final = 4
# The fewest further indexes of a slot, so that a few collections do not evict each other's indexes.
_FEWEST_INDEXES: Final = 3
# Connections to the store, the warm tier, the listener, and what a hydrate has open.
_RESERVE: Final = 96


def allow_most() -> int | None:
    """Raise this process's soft limit to the hard one, for its children too. Return the limit; None: no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError) as error:
        # Where the hard limit is "unlimited", some systems refuse to set it.
        _log.info("the limit of %d file descriptors stays: %s", soft, error)
    return None if soft == resource.RLIM_INFINITY else soft


def current() -> int | None:
    """Return this process's soft limit, which its children inherit; None: no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def fit(settings: Settings, limit: int | None) -> Settings:
    """Return the settings with as many open slots and connections as ``limit`` descriptors allow in one process.

    Raises Misconfigured if they do not suffice for one slot.
    """
    if limit is None:
        return settings
    most = (limit - _RESERVE) // (_SLOT + _INDEX * _FEWEST_INDEXES)
    if most < 1:
        raise Misconfigured(
            f"A process may open {limit} files, and one open vectorstore needs "
            f"{_RESERVE + _SLOT + _INDEX * _FEWEST_INDEXES}. Raise the limit (ulimit -n, or LimitNOFILE)."
        )
    # A connection that cannot be accepted would wait without a word; one beyond the setting is refused.
    connections = limit - _RESERVE
    if connections < settings.max_connections:
        _log.warning("the front may open %d files, enough for %d connections (max_connections)", limit, connections)
        settings = msgspec.structs.replace(settings, max_connections=connections)
    if most >= settings.open_slots:
        return settings
    _log.warning(
        "a shard may open %d files, enough for %d open slots instead of %d: raise the limit (ulimit -n) or lower "
        "VECTORPOOL_OPEN_SLOTS",
        limit,
        most,
        settings.open_slots,
    )
    return msgspec.structs.replace(settings, open_slots=most)


def indexes_of_a_slot(open_slots: int) -> int:
    """Return how many indexes each of ``open_slots`` slots may have loaded at once, by this process's limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 2**31
    return max(1, 1 + ((soft - _RESERVE) // open_slots - _SLOT) // _INDEX)
