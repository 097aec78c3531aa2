"""Time limits of the operations that may take longer than ``request_timeout_s``, in seconds.

They count from the last byte of the request's body, and hold where ``request_timeout_s`` is lower.
"""

from __future__ import annotations

from typing import Final

# Waits for a job, which embeds every document of an avatar that changed.
INGEST_S: Final = 3600.0
# One part of a large document, from a worker.
COMMAND_S: Final = 300.0
# A stream of a job's events.
EVENTS_S: Final = 600.0
# Reads, and writes anew, the whole state of a vectorstore.
RESTORE_S: Final = 600.0
FORK_S: Final = 600.0
# Reads a whole log.
SCRUB_S: Final = 3600.0
# Builds a state from the log; its stream has a time of its own, by its size.
EXPORT_S: Final = 600.0
# Commits a directory, from the last byte of its archive.
IMPORT_S: Final = 600.0
# Reads and writes as many bytes as a log has.
COMPACT_S: Final = 600.0
# Reads a whole log several times, and writes a state.
RECOVER_S: Final = 3600.0
# Drains a shard and starts it again.
RESTART_S: Final = 180.0
# Deletes every object of a user, or of an avatar's documents; a reset does so for many users.
DELETE_S: Final = 600.0
RESET_S: Final = 3600.0
