"""The table of bounds: how much one call, one record, one filter and one index may be, on both protocols.

``checks`` enforces it for the native API and ``chroma_bounds`` for Chroma's protocol, each where a command is made.
``engine.index_bounds`` enforces the numbers of an index again before Chroma loads one, because adopted and imported
directories, forks and commits of earlier versions did not come through a command. What an operator may choose
(``max_records``, ``max_queries``, ``max_results``, ``max_dimension``) is a setting; its range stands here.

The reason of a bound is what native code does with the number. Chroma's bindings keep the interpreter lock during a
write, so a large value delays every user of the shard; some values end the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from vectorpool.errors import InvalidRequest, LimitExceeded

# The largest number of things to pass over or to return: what Chroma takes, and far more than a vectorstore holds.
MAX_COUNT: Final = 2**32 - 1


class Bound(msgspec.Struct, frozen=True):
    """A number that a caller may choose, from ``least`` to ``most``. ``name`` is what errors call it."""

    name: str
    least: float
    most: float

    def allows(self, value: float) -> bool:
        """Return whether ``value`` is within the bound; NaN is not."""
        return self.least <= value <= self.most

    def check(self, value: float) -> None:
        """Raise InvalidRequest, which names the range, if ``value`` is outside the bound."""
        if not self.allows(value):
            raise InvalidRequest(
                f"{self.name} is {value}; {self.least} to {self.most} are allowed. Send a number in that range.",
                extra={"limit_name": self.name, "least": self.least, "limit": self.most},
            )


class Most(msgspec.Struct, frozen=True):
    """A number of things that a caller may send. ``name`` is what errors call them."""

    name: str
    most: int

    def check(self, count: int, of: str = "The call") -> None:
        """Raise LimitExceeded, which names the number that is allowed, if ``count`` is above it."""
        if count > self.most:
            raise self.exceeded(of, count)

    def exceeded(self, of: str, count: int | None = None) -> LimitExceeded:
        """Return the error of ``of``, which has too many; ``count`` is None if they were not all counted."""
        shown = f"more than {self.most}" if count is None else str(count)
        return LimitExceeded(
            f"{of} has {shown} {self.name}; at most {self.most} are allowed. Send fewer.",
            extra={"limit": self.most, "limit_name": self.name, "count": self.most + 1 if count is None else count},
        )


# --- The index of a collection ------------------------------------------------------------------------

# An index with no link a node ends the process at its first record; one with one link finds only a part of its records.
# Each link takes 4 bytes a record, twice that on the lowest layer.
MAX_NEIGHBORS: Final = Bound("max_neighbors", 2, 1024)
# Candidates that are held while an element is inserted, or a query is answered. hnswlib raises what is too small.
EF_CONSTRUCTION: Final = Bound("ef_construction", 0, 10_000)
EF_SEARCH: Final = Bound("ef_search", 0, 10_000)
# Records that wait in SQLite before they enter the index; all of them are applied in one call.
BATCH_SIZE: Final = Bound("batch_size", 0, 1_000_000)
SYNC_THRESHOLD: Final = Bound("sync_threshold", 0, 1_000_000)
NUM_THREADS: Final = Bound("num_threads", 0, 1024)
RESIZE_FACTOR: Final = Bound("resize_factor", 0, 10)
# The parameters of SPANN, which Chroma's local server takes and turns into HNSW.
_SPANN: Final = (
    Bound("search_nprobe", 0, 10_000),
    Bound("write_nprobe", 0, 10_000),
    Bound("reassign_neighbor_count", 0, 10_000),
    Bound("split_threshold", 0, 100_000),
    Bound("merge_threshold", 0, 100_000),
    Bound("num_centers_to_merge_to", 0, 10_000),
    Bound("num_samples_kmeans", 0, 100_000),
    Bound("nreplica_count", 0, 1024),
)
INDEX: Final = {
    bound.name: bound
    for bound in (
        MAX_NEIGHBORS,
        EF_CONSTRUCTION,
        EF_SEARCH,
        BATCH_SIZE,
        SYNC_THRESHOLD,
        NUM_THREADS,
        RESIZE_FACTOR,
        *_SPANN,
    )
}
# The same numbers as keys of a collection's metadata, which is how Chroma's clients before 1.0 set them.
INDEX_METADATA: Final = {
    "hnsw:M": MAX_NEIGHBORS,
    "hnsw:construction_ef": EF_CONSTRUCTION,
    "hnsw:search_ef": EF_SEARCH,
    "hnsw:batch_size": BATCH_SIZE,
    "hnsw:sync_threshold": SYNC_THRESHOLD,
    "hnsw:num_threads": NUM_THREADS,
    "hnsw:resize_factor": RESIZE_FACTOR,
}
# Bytes of a collection's configuration, and of its schema, as JSON.
CONFIGURATION_BYTES: Final = Most("bytes", 1024**2)
# Numbers of an embedding. The setting max_dimension is this or less.
DIMENSION: Final = Bound("dimension", 1, 65_536)


def index_numbers(configuration: Any) -> Iterator[tuple[Bound, float]]:
    """Yield every number of an index in a decoded configuration or schema, with its bound.

    An embedding function's own configuration is opaque, so names in it mean nothing here.
    """
    nodes = [configuration]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes += node
        elif isinstance(node, dict):
            for name, value in node.items():
                if name == "embedding_function":
                    continue
                bound = INDEX.get(name)
                if bound is not None and isinstance(value, (int, float)) and not isinstance(value, bool):
                    yield bound, value
                nodes.append(value)


# --- Records ------------------------------------------------------------------------------------------

RECORD_ID_BYTES: Final = 512
# Bytes of the hash of a chunk's text, of its SHA-256.
CHUNK_HASH_BYTES: Final = 16
METADATA_KEYS: Final = Most("metadata keys", 256)
METADATA_KEY_BYTES: Final = 256
# Bytes of one record's metadata as JSON. They are counted in one step, which keeps the interpreter lock.
METADATA_BYTES: Final = Most("bytes of metadata of one record", 1024**2)
METADATA_LIST: Final = Most("values in one list of metadata", 4096)
# Values of one record's metadata, members of lists included. Chroma writes them in one statement of SQLite, which takes
# 5,461 of them: more ends the compactor of an open store for good.
METADATA_VALUES: Final = Most("metadata values", 4352)
# Different metadata keys of all records of a collection. They stand in the collection's schema, which Chroma reads and
# writes with each call: 1,024 take 25 ms, 64,000 take 1.5 s.
COLLECTION_KEYS: Final = Most("different metadata keys", 1024)
# Collections of one user, and as many databases, avatars included: the setting max_collections. A list of 1,000 takes
# Chroma 150 ms, and each of them has its place in every commit.
COLLECTIONS: Final = Bound("collections", 1, 16_384)
# The same for a collection that came otherwise than by a write here.
OPENED_KEYS: Final = Most("different metadata keys", 16_384)
# Parts of records that an answer may include. There are five; repetitions are passed over.
INCLUDE: Final = Most("members of include", 16)

# --- Filters ------------------------------------------------------------------------------------------

FILTER_DEPTH: Final = 16
# Chroma walks joined conditions with its stack: 9,000 of them end the process.
FILTER_TERMS: Final = Most("conditions", 2048)
FILTER_VALUES: Final = Most("values in one list", 10_000)
# Values and names of a whole filter. They are checked, and sent to a shard, one by one.
FILTER_ALL_VALUES: Final = Most("values and names in one filter", 400_000)
# On Chroma's protocol: Chroma itself takes somewhat more than 32,000 of each.
PROTOCOL_FILTER_VALUES: Final = Most("values in one list", 40_000)
PROTOCOL_IDS: Final = Most("ids", 50_000)
# Bytes of all regular expressions of a filter. They are compiled again for each record.
FILTER_PATTERN_BYTES: Final = Most("bytes of regular expressions", 4096)
FILTER_BYTES: Final = Most("bytes of filter", 8 * 1024**2)

# --- Documents ----------------------------------------------------------------------------------------

# Characters of the text of one document: ten books. All of them are in memory at once, in the reading process and here.
EXTRACTED_CHARACTERS: Final = 16 * 1024**2
# Bytes of the text and its places, as the reading process answers them.
EXTRACT_BYTES: Final = 96 * 1024**2
# Bytes of one unpacked file of an archive, of all of them together, their number, and archives inside each other.
EXTRACTED_MEMBER_BYTES: Final = 64 * 1024**2
ARCHIVE_BYTES: Final = 256 * 1024**2
ARCHIVE_MEMBERS: Final = 2000
ARCHIVE_DEPTH: Final = 3
# Texts, or chunks of a text, and characters of one call that only embeds.
EMBED_TEXTS: Final = Most("texts", 1000)
EMBED_CHARACTERS: Final = Most("characters", 4 * 1024**2)
# A stream of records: bytes of a line, and what is gathered into one commit. A stream has one batch in memory, and its
# line; this many streams are under way on an instance, and for one user.
STREAM_LINE_BYTES: Final = Most("bytes in one line", 8 * 1024**2)
STREAM_BATCH_RECORDS: Final = 500
STREAM_BATCH_BYTES: Final = 4 * 1024**2
STREAMS: Final = 64
STREAMS_OF_USER: Final = 4
# Seconds for which an upload URL is good.
UPLOAD_URL_S: Final = Bound("expires_s", 1, 86_400)
# Descriptors of the process that reads one document.
READING_DESCRIPTORS: Final = 64
# Documents that wait for a reading process of an instance.
READING_QUEUE: Final = 1000
