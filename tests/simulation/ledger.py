"""The store as a witness: every effect on it is checked against the promises when it happens.

The witness follows each user's log commit by commit, in memory: it applies each delta to its own copy of the files,
checks parent, hash and state checksum, and reads the commit's writes from the journal. So these hold after
every effect, and not only at the end:

- a number has one content, ever, is never free again, and follows on the number before it;
- a commit keeps all that its parent had, in order, and no write is in the log twice;
- a write that was refused never gets into the log; derived objects give the state of the commit that they name;
- after anything was deleted, the newest state and every retained one can still be built.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.replica import DELETED, JOURNAL, LINE_BYTES, PAGES, Line, is_torn, parse_journal
from vectorpool import names
from vectorpool.commitlog.body import unpack_frame
from vectorpool.commitlog.format import GRAVE, Decoded, decode_header, digest, grave_of, state_checksum
from vectorpool.commitlog.image import block_digests
from vectorpool.commitlog.plan import Listing, chain, parse_object
from vectorpool.errors import Damaged
from vectorpool.objects.bucket import ObjectInfo
from vectorpool.objects.memory import MemoryBucket
from vectorpool.sources import Sources


class Truth:
    """One user's log, followed commit by commit. ``lengths[seq]`` is the number of writes up to commit seq."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.seq = 0
        self.hashes = [b""]
        self.states = [b""]
        self.created_ms = [0]
        self.lengths = [0]
        self.files: dict[str, bytearray] = {}
        self.lines: list[Line] = []
        # The place of each write in the order of all, by its token.
        self.places: dict[str, int] = {}
        self.refused: set[str] = set()
        # Writes whose callers got ``outcome-unknown``.
        self.doubtful: set[str] = set()
        # The number of writes that a strong read must see if it begins now.
        self.acknowledged = 0
        # For each record: (commit, whether it is there from then on).
        self.presence: dict[str, list[tuple[int, bool]]] = {}

    def seq_of(self, token: str) -> int | None:
        """Return the number of the commit with a write, or None."""
        place = self.places.get(token)
        if place is None:
            return None
        return next(seq for seq, length in enumerate(self.lengths) if length > place)

    def acknowledge(self, token: str) -> None:
        """Require that every later strong read sees this write."""
        self.acknowledged = max(self.acknowledged, self.places[token] + 1)

    def was(self, record: str, *, present: bool, since: int) -> bool:
        """Whether a record was there (or was not) in some state from commit ``since`` on."""
        history = self.presence.get(record, [])
        first = [there for seq, there in history if seq <= since][-1:] or [False]
        return any(there is present for there in first + [there for seq, there in history if seq > since])


class Ledger(MemoryBucket):
    """The store of a world. ``violated`` is called with one sentence for each promise that was broken."""

    def __init__(self, sources: Sources, retention_ms: int, violated: Callable[[str], None]) -> None:
        super().__init__(name="ledger", sources=sources)
        self._clock = sources
        self._retention_ms = retention_ms
        self._violated = violated
        self._contents: dict[str, bytes] = {}
        # The objects that may replace a commit.
        self._graves: dict[str, tuple[bytes, bytes]] = {}
        self._self_contained: set[str] = set()
        self.truths: dict[str, Truth] = {}
        self.erasures = 0
        self.log: Callable[[str], None] = lambda line: None

    def truth(self, user_id: str) -> Truth:
        """Return the record of a user's log."""
        if user_id not in self.truths:
            self.truths[user_id] = Truth(user_id)
        return self.truths[user_id]

    # --- Effects -------------------------------------------------------------------------------------

    async def create(self, key: str, data: bytes) -> str:
        etag = await super().create(key, data)
        parsed = self._parse(key)
        if parsed is not None:
            truth, kind, seq = parsed
            self.log(f"store: {kind} {seq} of {truth.user_id} is there, {len(data)} bytes")
            if kind == "commit" and key in self._contents:
                self._violated(f"commit {seq} of {truth.user_id} was created again: its number had become free")
            self._contents[key] = digest(data)
            try:
                decoded = decode_header(key, data, len(data))
                if decoded.header.self_contained:
                    self._self_contained.add(key)
                else:
                    self._self_contained.discard(key)
                if kind == "commit":
                    self._graves[key] = GRAVE, grave_of(decoded.header.writer)
                    self._follow(truth, key, data, decoded)
                else:
                    self._compare(truth, key, decoded)
            except Damaged as error:
                self._violated(f"{key} was written damaged: {error.detail}")
        return etag

    async def put(self, key: str, data: bytes) -> str:
        parsed = self._parse(key)
        if parsed is not None:
            truth, kind, seq = parsed
            self.log(f"store: {kind} {seq} of {truth.user_id} is overwritten with {len(data)} bytes")
            if kind != "commit" or data not in self._graves.get(key, ()):
                self._violated(f"{key} was overwritten, or put without a condition")
        etag = await super().put(key, data)
        if parsed is not None:
            self.check_retained(parsed[0])
        return etag

    async def delete(self, key: str) -> None:
        await super().delete(key)
        parsed = self._parse(key)
        if parsed is not None:
            truth, kind, seq = parsed
            self.log(f"store: {kind} {seq} of {truth.user_id} is deleted")
            if kind == "commit":
                self._violated(f"{key} was deleted: number {seq} is free again")
            self.check_retained(truth)

    def _parse(self, key: str) -> tuple[Truth, str, int] | None:
        parts = key.split("/")
        if parts[:1] != ["users"] or parts[2:4] != ["vectorstore", "log"]:
            return None
        parsed = names.parse_log_name(parts[4])
        return None if parsed is None else (self.truth(parts[1]), parsed[0], parsed[1])

    # --- What must hold ------------------------------------------------------------------------------

    def _follow(self, truth: Truth, key: str, data: bytes, decoded: Decoded) -> None:
        header = decoded.header
        where = f"commit {header.seq} of {truth.user_id}"
        if header.seq != truth.seq + 1 or header.parent_hash != truth.hashes[-1]:
            self._violated(f"{where} does not follow on commit {truth.seq}, the newest")
            return
        files = {e.path: truth.files.get(e.path, bytearray())[: e.size].ljust(e.size, b"\0") for e in header.files}
        at = decoded.body_offset
        for frame in header.frames:
            raw, cursor = unpack_frame(key, frame, data[at : at + frame.stored]), 0
            at += frame.stored
            for index, offset, length in frame.extents:
                files[header.files[index].path][offset : offset + length] = raw[cursor : cursor + length]
                cursor += length
        built = [type(e)(e.path, e.size, digest(block_digests(files[e.path]))) for e in header.files]
        if state_checksum(built) != header.state_after:
            self._violated(f"{where} does not lead from its parent's state to its own checksum")
        truth.seq, truth.files = header.seq, files
        truth.hashes.append(decoded.commit_hash)
        truth.states.append(header.state_after)
        truth.created_ms.append(self._clock.now_ms())
        old = truth.lines
        new = parse_journal(bytes(files.get(JOURNAL, b"")))
        if new[: len(old)] != old:
            lost = [line.token for line in old if line not in new]
            self._violated(f"{where} lost or reordered what its parent had: {lost or 'another order'}")
        if header.summary.erased:
            self.erasures += 1
            if len(new) != len(old) or DELETED in files:
                self._violated(f"{where} is an erasure, and holds a write or leaves what was deleted")
        truth.lines = new
        truth.lengths.append(len(new))
        for place, line in enumerate(new[len(old) :], len(old)):
            if line.token in truth.places:
                self._violated(f"{where} holds the write {line.token} a second time")
            if line.token in truth.refused:
                self._violated(f"{where} holds the write {line.token}, which was refused to its caller")
            truth.places[line.token] = place
            truth.presence.setdefault(line.record, []).append((header.seq, line.what != "delete"))
        if is_torn(files.get(PAGES, b""), new):
            self._violated(f"{where} holds pages of two states")
        if len(files.get(JOURNAL, b"")) % LINE_BYTES:
            self._violated(f"{where} holds half a write")

    def _compare(self, truth: Truth, key: str, decoded: Decoded) -> None:
        header = decoded.header
        if header.seq > truth.seq:
            self._violated(f"{key} stands for a commit that does not exist")
        elif (decoded.commit_hash, header.state_after) != (truth.hashes[header.seq], truth.states[header.seq]):
            self._violated(f"{key} leads to another state than commit {header.seq}")

    def objects(self, user_id: str) -> Listing:
        """Return the log of a user as a listing."""
        prefix = names.log_prefix(user_id)
        infos: list[ObjectInfo] = [info for key, (_, info) in self._objects.items() if key.startswith(prefix)]
        found = [obj for obj in map(parse_object, sorted(infos, key=lambda info: info.key)) if obj is not None]
        return Listing(found, complete=True)

    def retained(self, truth: Truth) -> list[int]:
        """Return the numbers that must be buildable now: the newest, and all that are young enough."""
        oldest_ms = self._clock.now_ms() - self._retention_ms
        return [seq for seq in range(1, truth.seq + 1) if seq == truth.seq or truth.created_ms[seq] > oldest_ms]

    def check_retained(self, truth: Truth) -> None:
        """Check that a path of objects leads to each retained number."""
        listing = self.objects(truth.user_id)
        for seq in self.retained(truth):
            found = chain(listing, seq)
            if found is None or not any(obj.key in self._self_contained for obj in found.objects):
                self._violated(f"commit {seq} of {truth.user_id} is retained, and can no longer be built")
