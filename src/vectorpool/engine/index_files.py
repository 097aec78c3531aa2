"""The files of one HNSW index as Chroma leaves them on disk, read without Chroma and verified.

    index_metadata.pickle  which label an id has; a dictionary, or an object of Chroma's older versions
    data_level0.bin        elements of one size: links (u32 count and flags, u32[2 M]), float32[dimension], u64 label
    header.bin             the numbers of that layout; they also follow from the dimension and M, so it may be lost
    length.bin             float32 norms, element by element; under cosine the vectors are stored normalised
    link_lists.bin         the upper layers; nothing in it is a vector, so it is not read

All numbers are little-endian. A vector is believed only if its element is whole and not marked deleted, its label
belongs to an id and to no other element, its numbers are finite and, under cosine, its norm is 1. A missing file
is a loss; any other failure to read one (too many descriptors, a bad disk) is raised: it says nothing about the data.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vectorpool.bounds import DIMENSION, MAX_NEIGHBORS, SYNC_THRESHOLD
from vectorpool.engine.rows import Float32, unit

MAX_METADATA_BYTES: Final = 1024**3
_HEADER: Final = struct.Struct("<i6QiIQQQdQ")
_OLD_CLASS: Final = ("chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData")
_DELETED: Final = 0x01
# An element of the largest dimension, with the most links.
_MAX_ELEMENT_BYTES: Final = 4 + 4 * 2 * int(MAX_NEIGHBORS.most) + 4 * int(DIMENSION.most) + 8
# Chroma makes room for the next power of two above what it has and what waits, which is bounded by sync_threshold.
_ROOM: Final = 4
_SPARE_ELEMENTS: Final = 4 * int(SYNC_THRESHOLD.most)
_NORM_TOLERANCE: Final = 1e-3
# Differences up to these come of normalising a vector in float32: of a coordinate, and of the norm, relative.
_COORDINATE_ROUNDING: Final = 1e-6
_NORM_ROUNDING: Final = 1e-5


class _OldMetadata:
    """Stands for the one class that Chroma's older versions pickled; holds attributes and does nothing."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _OLD_CLASS:
            return _OldMetadata
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into an index's metadata")


def read_labels(directory: Path) -> dict[str, int]:
    """Return the labels by record id; empty if the file is missing or cannot be made sense of."""
    path = directory / "index_metadata.pickle"
    try:
        if path.stat().st_size > MAX_METADATA_BYTES:
            return {}
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        loaded = _Unpickler(io.BytesIO(data)).load()
    except Exception:
        # A damaged pickle raises nearly anything.
        return {}
    fields = loaded if isinstance(loaded, dict) else getattr(loaded, "__dict__", {})
    labels = fields.get("id_to_label")
    if not isinstance(labels, dict):
        return {}
    return {k: v for k, v in labels.items() if isinstance(k, str) and isinstance(v, int) and 0 <= v < 2**63}


def _element(directory: Path, dimension: int, max_neighbors: int) -> np.dtype[Any]:
    """Return the layout of an element: as the header has it if that is consistent, else as Chroma would make it."""
    level0_links = 2 * max_neighbors
    try:
        header = (directory / "header.bin").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        header = b""
    if len(header) >= _HEADER.size:
        _, start, _, _, size, label_at, vector_at, _, _, _, links, _, _, _ = _HEADER.unpack_from(header)
        consistent = start == 0 and vector_at == 4 + 4 * links and label_at == vector_at + 4 * dimension
        if consistent and size == label_at + 8 and links <= 4096:
            level0_links = links
    return np.dtype(
        [("flags", "u1", (4,)), ("links", "<u4", (level0_links,)), ("vector", "<f4", (dimension,)), ("label", "<u8")]
    )


def _load(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the whole elements of a file; none if it is missing."""
    try:
        count = path.stat().st_size // dtype.itemsize
        if count == 0:
            return np.empty(0, dtype)
        return np.memmap(path, dtype=dtype, mode="r", shape=(count,))
    except (FileNotFoundError, NotADirectoryError):
        return np.empty(0, dtype)


def map_elements(directory: Path, dimension: int, max_neighbors: int) -> NDArray[Any]:
    """Return the elements of an index, mapped: fields flags, links, vector, label; none if the file is missing."""
    return _load(directory / "data_level0.bin", _element(directory, dimension, max_neighbors))


def map_norms(directory: Path) -> NDArray[np.float32]:
    """Return the lengths that vectors of a cosine collection had, element by element; none if the file is missing."""
    return _load(directory / "length.bin", np.dtype("<f4"))


def are_deleted(elements: NDArray[Any]) -> bool:
    """Return whether one of the elements is marked deleted."""
    return bool((elements["flags"][:, 2] & _DELETED).any())


def read_vectors(
    directory: Path,
    *,
    dimension: int,
    max_neighbors: int,
    max_bytes: int,
    there: Callable[[], Container[str]] | None = None,
) -> tuple[list[str], Float32, Float32 | None] | None:
    """Return all ids and their vectors as stored, float32[n, dimension], in one reading; none if nothing is persisted.

    Third, if the files tell it, are the lengths, float32[n], that vectors of a cosine collection had.
    If the vectors take more than ``max_bytes``, only those of the ids that ``there`` returns are read. Returns None if
    these take more too, or if ids and elements do not fit together.
    """
    labels = read_labels(directory)
    if not labels:
        return [], np.empty((0, dimension), np.float32), None
    is_part = len(labels) * dimension * 4 > max_bytes
    if is_part and there is not None:
        kept = there()
        labels = {record_id: label for record_id, label in labels.items() if record_id in kept}
        if not labels:
            return [], np.empty((0, dimension), np.float32), None
    if len(labels) * dimension * 4 > max_bytes:
        return None
    layout = _element(directory, dimension, max_neighbors)
    try:
        # What is not needed does not come into memory.
        elements = (_load if is_part else np.fromfile)(directory / "data_level0.bin", layout)
    except FileNotFoundError:
        return None
    order = np.argsort(elements["label"], kind="stable")
    known = elements["label"][order]
    wanted = np.fromiter(labels.values(), np.uint64, len(labels))
    at = np.searchsorted(known, wanted)
    if len(known) == 0 or at.max() >= len(known) or not np.array_equal(known[at], wanted):
        return None
    chosen = order[at]
    if (elements["flags"][chosen, 2] & _DELETED).any():
        return None
    lengths = map_norms(directory)
    told = np.array(lengths[chosen]) if chosen.max() < len(lengths) else None
    return list(labels), np.ascontiguousarray(elements["vector"][chosen]), told


def write_vectors(
    directory: Path, vectors: Mapping[str, Float32], *, dimension: int, max_neighbors: int, cosine: bool
) -> int:
    """Write the vectors, float32[dimension] each, of records that the files have with others; return how many.

    A record without a label or an element is passed over, and an element whose vector is as it should be is not
    written. Raises OSError.
    """
    labels = read_labels(directory)
    wanted = {labels[record_id]: vector for record_id, vector in vectors.items() if record_id in labels}
    layout = _element(directory, dimension, max_neighbors)
    elements = _load(directory / "data_level0.bin", layout)
    norms = _load(directory / "length.bin", np.dtype("<f4"))
    if not wanted or not len(elements):
        return 0
    places = np.flatnonzero(np.isin(elements["label"], np.fromiter(wanted, np.uint64, len(wanted))))
    stale: list[tuple[int, Float32, np.float32]] = []
    for place in places.tolist():
        vector = wanted[int(elements["label"][place])]
        stored, norm = elements["vector"][place], np.float32(np.linalg.norm(vector))
        if not cosine:
            is_stale = not np.array_equal(stored, vector)
        else:
            vector = unit(vector)
            is_stale = not np.allclose(stored, vector, rtol=0, atol=_COORDINATE_ROUNDING) or (
                place < len(norms) and not np.isclose(norms[place], norm, rtol=_NORM_ROUNDING, atol=0)
            )
        if is_stale:
            stale.append((place, vector, norm))
    if stale:
        at = layout.fields["vector"][1] if layout.fields else 0
        _overwrite(
            directory / "data_level0.bin", [(place * layout.itemsize + at, vector) for place, vector, _ in stale]
        )
        if cosine:
            _overwrite(directory / "length.bin", [(place * 4, norm) for place, _, norm in stale if place < len(norms)])
    return len(stale)


def _overwrite(path: Path, pieces: Iterable[tuple[int, Float32 | np.float32]]) -> None:
    with path.open("r+b", buffering=0) as file:
        for offset, numbers in pieces:
            if os.pwrite(file.fileno(), numbers.astype("<f4").tobytes(), offset) != 4 * numbers.size:
                raise OSError(f"{path.name} was written in part")


def is_unsound(directory: Path) -> bool:
    """Whether an index of a Chroma directory is shorter than its header says, or says what is outside the bounds.

    Reading one that is cut ends the process. Loading one takes the memory that the header asks for.
    """
    for path in directory.glob("*/header.bin"):
        header = path.read_bytes()
        if len(header) < _HEADER.size:
            continue
        _, _, most, count, size, _, _, _, _, links, base_links, neighbors, _, _ = _HEADER.unpack_from(header)
        if max(neighbors, links, base_links // 2) > MAX_NEIGHBORS.most or size > _MAX_ELEMENT_BYTES:
            return True
        if most > _ROOM * count + _SPARE_ELEMENTS:
            return True
        for name, bytes_each in (("data_level0.bin", size), ("length.bin", 4)):
            file = path.with_name(name)
            if file.exists() and file.stat().st_size < count * bytes_each:
                return True
    return False


class IndexFiles:
    """The vectors of one index by record id. ``dimension`` and ``max_neighbors`` are the collection's."""

    def __init__(self, directory: Path, *, dimension: int, max_neighbors: int, cosine: bool) -> None:
        self._cosine = cosine
        self._labels = read_labels(directory)
        self._elements = _load(directory / "data_level0.bin", _element(directory, dimension, max_neighbors))
        self._norms = _load(directory / "length.bin", np.dtype("<f4"))
        labels, first, counts = np.unique(self._elements["label"], return_index=True, return_counts=True)
        once = counts == 1
        self._places = dict(zip(labels[once].tolist(), first[once].tolist(), strict=True))

    def __contains__(self, record_id: str) -> bool:
        """Whether the index knows the id, with or without a vector that can be read."""
        return record_id in self._labels

    def vector(self, record_id: str) -> Float32 | None:
        """Return a record's vector, float32[dimension], or None if there is none to be believed."""
        place = self._places.get(self._labels.get(record_id, -1))
        if place is None:
            return None
        element = self._elements[place]
        # The deleted mark is the lowest bit of the third byte of the links' count.
        if element["flags"][2] & _DELETED:
            return None
        vector: Float32 = np.array(element["vector"], dtype=np.float32)
        norm = float(np.linalg.norm(vector))
        if not np.isfinite(norm):
            return None
        if self._cosine:
            if norm and abs(norm - 1) > _NORM_TOLERANCE:
                return None
            if place < len(self._norms) and np.isfinite(self._norms[place]) and self._norms[place] > 0:
                vector = vector * self._norms[place]
        return vector
