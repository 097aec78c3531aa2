"""Streams of records: NDJSON of any length, a line a record, upserted batch by batch while it arrives.

One batch is in memory, and one line. A batch is one commit, so what an interrupted stream has written stays, and the
same stream sent again writes the same records: an upsert of the same record changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import Any

import msgspec
from litestar import Controller, Response, put

from vectorpool import answers, commands
from vectorpool.api.bodies import values_of_a_record
from vectorpool.api.call import Call
from vectorpool.api.collections import ABSENT
from vectorpool.api.documentation import documented
from vectorpool.api.embeddings import Row, embed_missing, to_row
from vectorpool.api.namespaces import CollectionName, Namespace, Ns
from vectorpool.api.requests import StreamedRecordBody, decode
from vectorpool.api.responses import respond
from vectorpool.api.views import StreamReceipt
from vectorpool.bounds import STREAM_BATCH_BYTES, STREAM_BATCH_RECORDS, STREAM_LINE_BYTES, Most
from vectorpool.checks import check_document, check_metadata, check_record_ids
from vectorpool.errors import (
    DimensionMismatch,
    EmbedderMismatch,
    EmbedderUnavailable,
    InvalidEmbedding,
    InvalidRequest,
    LimitExceeded,
    MalformedJson,
    QueueFull,
    UnsupportedFormat,
    VectorpoolError,
)
from vectorpool.names import check_collection_name, excerpt
from vectorpool.outline import check_values
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM
from vectorpool.turns import at_once

NDJSON = "application/x-ndjson"
# Read at once; longer ones are counted first, and take turns.
_SMALL_LINE = 16 * 1024
_CONTAINERS = Most("lists and objects", 4096)
# A full queue is waited for, because the caller cannot send a part of a stream again by itself.
_WAITS = 60
_WAIT_S = 1.0


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Yield the number and the bytes of each line that is not blank. Raises LimitExceeded."""
    number, rest = 0, bytearray()
    async for part in parts:
        searched = len(rest)
        rest += part
        start = 0
        while (end := rest.find(b"\n", max(start, searched))) >= 0:
            number += 1
            line = bytes(rest[start:end])
            start = searched = end + 1
            if line.strip():
                yield number, line
        del rest[:start]
        STREAM_LINE_BYTES.check(len(rest), f"Line {number + 1}")
    if rest.strip():
        yield number + 1, bytes(rest)


class _Batch:
    """Records of a stream that were read and are not written yet."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.texts: list[str | None] = []
        self.rows: list[Row | None] = []
        self.metadatas: list[dict[str, Any] | None] = []
        self.bytes = 0
        self.first = self.last = 0
        self._seen: set[str] = set()

    def has(self, record_id: str) -> bool:
        return record_id in self._seen

    @property
    def is_full(self) -> bool:
        return len(self.ids) >= STREAM_BATCH_RECORDS or self.bytes >= STREAM_BATCH_BYTES

    def add(self, number: int, size: int, record: StreamedRecordBody, row: Row | None) -> None:
        self.first = self.first or number
        self.last = number
        self.bytes += size
        self._seen.add(record.id)
        self.ids.append(record.id)
        self.texts.append(record.text)
        self.rows.append(row)
        self.metadatas.append(record.metadata)


def read_line(line: bytes, settings: Settings) -> Generator[None, None, tuple[StreamedRecordBody, Row | None]]:
    """Return the record of a line, checked, and its embedding, in steps."""
    if len(line) > _SMALL_LINE:
        yield from check_values(line, values_of_a_record(settings), _CONTAINERS)
    record = decode(line, StreamedRecordBody)
    name = f"record {excerpt(record.id)}"
    check_record_ids([record.id], limit=1)
    check_metadata(record.metadata, of=name, nulls=False)
    row = None if record.embedding is None else to_row(record.embedding, settings, of=name)
    if record.text is not None:
        check_document(f"The text of {name}", record.text)
    elif row is None:
        raise InvalidRequest(f"R{name[1:]} has neither a text nor an embedding. Send one.")
    return msgspec.structs.replace(record, embedding=None), row


class _Stream:
    """One stream on its way into one collection."""

    def __init__(self, request: Call, namespace: Namespace, name: str) -> None:
        self._request = request
        self._namespace = namespace
        self._name = name
        self._batch = _Batch()
        self.written = 0
        self.commits = 0
        self.commit = 0
        self._lines_written = 0

    async def run(self) -> None:
        service = self._request.service
        number = 0
        try:
            async for number, line in _lines(self._request.stream()):
                reading, user_id = read_line(line, service.settings), self._namespace.user_id
                is_small = len(line) <= _SMALL_LINE
                record, row = at_once(reading) if is_small else await service.turns.run(user_id, reading)
                if self._batch.is_full or self._batch.has(record.id):
                    await self._write()
                self._batch.add(number, len(line), record, row)
        except InvalidRequest as error:
            # A batch that was refused names its own lines.
            if "lines_written" in error.extra:
                raise
            raise self._naming(error, f"Line {number or 1}", number or 1) from error
        if self._batch.ids:
            await self._write()

    def _naming(self, error: VectorpoolError, where: str, line: int) -> VectorpoolError:
        done = (
            f"Lines up to {self._lines_written} are written; correct it and send the stream again, or from there on."
            if self._lines_written
            else "Nothing is written; correct it and send the stream again."
        )
        extra = {**error.extra, "line": line, "lines_written": self._lines_written}
        return type(error)(f"{where}: {error.detail} {done}", retry_after_s=error.retry_after_s, extra=extra)

    async def _write(self) -> None:
        batch, self._batch = self._batch, _Batch()
        request, user_id = self._request, self._namespace.user_id
        names = [f"record {excerpt(an_id)}" for an_id in batch.ids]
        for attempt in range(_WAITS):
            try:
                vectors = await embed_missing(
                    batch.rows, batch.texts, names, request.service.embedder, request.context, user_id=user_id
                )
                command = commands.UpsertRecords(
                    avatar_id=self._namespace.avatar_id,
                    collection=self._name,
                    ids=batch.ids,
                    documents=batch.texts if any(text is not None for text in batch.texts) else None,
                    metadatas=batch.metadatas if any(batch.metadatas) else None,
                    vectors=vectors,
                )
                answer = await request.execute(user_id, command)
            except QueueFull as error:
                if attempt == _WAITS - 1:
                    raise self._naming(error, f"Lines {batch.first} to {batch.last}", batch.first) from error
                await SYSTEM.sleep(_WAIT_S)
            except VectorpoolError as error:
                raise self._naming(error, f"Lines {batch.first} to {batch.last}", batch.first) from error
            else:
                break
        self.written += msgspec.json.decode(answer.body, type=answers.Written).written
        self.commits += 1
        self.commit = answer.commit
        self._lines_written = batch.last


class Streams(Controller):
    """Streams of records into a collection."""

    path = "/collections/{name:str}/records/stream"
    tags = ("records",)

    @put(
        status_code=200,
        summary="Upsert a stream of records",
        # The handler bounds lines and batches; the whole may be of any length.
        request_max_body_size=None,
        operation_class=documented(
            takes=NDJSON,
            gives=StreamReceipt,
            problems=(
                MalformedJson,
                UnsupportedFormat,
                LimitExceeded,
                InvalidEmbedding,
                DimensionMismatch,
                *ABSENT,
                EmbedderMismatch,
                EmbedderUnavailable,
            ),
        ),
    )
    async def stream_records(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Upsert records from NDJSON of any length: a line ``{"id", "text", "metadata", "embedding"}`` each.

        Records are written in batches, each one commit, while the stream arrives. An error names the line, and the
        lines that are written stay. The same stream may be sent again, whole or from there on.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != NDJSON:
            raise UnsupportedFormat(f"A stream of records is {NDJSON}: a JSON object a line. Send that content type.")
        stream = _Stream(request, namespace, check_collection_name(name))
        await stream.run()
        return respond(StreamReceipt(stream.written, stream.commits), commit=stream.commit)
