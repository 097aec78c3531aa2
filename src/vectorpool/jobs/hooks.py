"""What others are told of a job's documents: chunks before they are embedded, and afterwards with their vectors.

The shapes are those of VectorFlow. Messages are sent once the records are committed, and before the job is done. The id
of a message is made of the job, the attempt and the place of its records, so a run that was cut off sends the same ids
again. A job whose messages cannot be delivered has failed with the reason; a retry of the job sends them again.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import msgspec

from vectorpool.answers import RecordPage
from vectorpool.commands import GetRecords
from vectorpool.context import BACKGROUND
from vectorpool.documents.chunking import Chunk
from vectorpool.documents.pipeline import ChunkCheck
from vectorpool.documents.router import Router
from vectorpool.errors import UNDECODABLE, InvalidRequest, NotFound, WebhookUndelivered
from vectorpool.jobs.views import JobOptions
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.webhooks.addresses import AddressGuard
from vectorpool.webhooks.delivery import Delivery, Event, deliver

# Records of one message: at most 2 MB of vectors of 8,192 numbers as text, a few of usual ones.
_RECORDS: Final = 100
_VALIDATION_S: Final = 10.0
_KEY_HEADER: Final = "X-Embeddings-Webhook-Key"
# Texts of a validation come back: as much as the longest message.
_MOST_VALID_BYTES: Final = 32 * 1024**2


class _Chunk(msgspec.Struct):
    text: str


class _Valid(msgspec.Struct):
    valid_chunks: list[_Chunk | str]


class Hooks:
    """Tells others, as the options of jobs say."""

    def __init__(self, router: Router, settings: Settings, sources: Sources) -> None:
        """Raise Misconfigured for networks that cannot be meant."""
        self._router = router
        self._settings = settings
        self._sources = sources
        self._guard = AddressGuard(settings.webhook_networks)

    def check_of(self, job_id: str, options: JobOptions | None) -> ChunkCheck | None:
        """Return what picks the chunks that are kept, or None if all are."""
        if options is None or options.validation_url is None:
            return None
        return partial(self._valid, job_id, options.validation_url)

    async def _valid(self, job_id: str, url: str, chunks: list[Chunk]) -> list[Chunk]:
        """Return the chunks whose texts the validation answers. Raises InvalidRequest: the document fails."""
        body = msgspec.json.encode({"chunks": [{"text": chunk.text} for chunk in chunks]})
        event = Event(f"msg_{job_id}_chunks", body)
        # Short: documents of other users wait for the turn of this one.
        sent = await self._deliver(
            url, event, None, attempts=2, attempt_s=_VALIDATION_S, max_answer_bytes=_MOST_VALID_BYTES
        )
        if not sent.delivered:
            raise InvalidRequest(f"The chunks could not be validated: {sent.reason}. Retry the job when they can.")
        try:
            valid = msgspec.json.decode(sent.answer or b"", type=_Valid).valid_chunks
        except UNDECODABLE:
            raise InvalidRequest(
                'The validation of chunks answered no {"valid_chunks": [...]}. Correct it, and retry the job.'
            ) from None
        texts = {each if isinstance(each, str) else each.text for each in valid}
        kept = [chunk for chunk in chunks if chunk.text in texts]
        if not kept:
            raise InvalidRequest("The validation of chunks kept none of the document's.")
        return kept

    async def tell(
        self, job_id: str, attempt: int, number: int | None, of: tuple[str, str], paths: list[str], options: JobOptions
    ) -> None:
        """Send the records of documents, ``of`` (user, avatar). Raises WebhookUndelivered."""
        for at, path in enumerate(paths):
            offset = 0
            while records := await self._records(*of, path, offset):
                message = {
                    "Embeddings": [self._shown(record) for record in records],
                    "DocumentID": options.document_id or "",
                    "JobID": job_id if number is None else number,
                }
                event = Event(f"msg_{job_id}_{attempt}_{at}_{offset}", msgspec.json.encode(message))
                assert options.webhook_url is not None
                sent = await self._deliver(options.webhook_url, event, options.webhook_key)
                if not sent.delivered:
                    raise WebhookUndelivered(
                        f"The records of {path!r} are made, and the webhook did not take them after {sent.attempts} "
                        f"attempts: {sent.reason}. Retry the job to send them again."
                    )
                offset += len(records)
                if len(records) < _RECORDS:
                    break

    async def _deliver(self, url: str, event: Event, key: str | None, **more: Any) -> Delivery:
        headers = {} if key is None else {_KEY_HEADER: key}
        secret = self._settings.webhook_secret
        return await deliver(url, event, secret, guard=self._guard, headers=headers, sources=self._sources, **more)

    async def _records(self, user_id: str, avatar_id: str, path: str, offset: int) -> list[Any]:
        command = GetRecords(
            avatar_id=avatar_id,
            collection=self._settings.documents_collection,
            where={"path": path},
            limit=_RECORDS,
            offset=offset,
            include=("documents", "metadatas", "embeddings"),
        )
        try:
            answer = await self._router.execute(user_id, command, BACKGROUND)
        except NotFound:
            return []
        return list(msgspec.json.decode(answer.body, type=RecordPage).records)

    @staticmethod
    def _shown(record: Any) -> dict[str, Any]:
        return {
            "chunk_id": record.id,
            "text": record.document,
            "vector": record.embedding,
            "metadata": record.metadata or {},
        }
