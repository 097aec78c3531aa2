"""Errors that call for patience: the same request, sent again later, may pass."""

from __future__ import annotations

from vectorpool.errors.base import VectorpoolError


class TryAgain(VectorpoolError):
    """Nothing is wrong with the request; sent again later it may pass.

    To do: send it again after ``Retry-After``.
    """

    code = "try-again"
    title = "Try again later"
    status = 503
    retry_after_s = 1.0


class PoolBusy(TryAgain):
    """Every slot is in use and the waiting room is full, or the wait was too long.

    To do: send it again after ``Retry-After``. Often: more ``open_slots``, more instances, or routing by user.
    """

    code = "pool-busy"
    title = "Every slot is in use"


class QueueFull(TryAgain):
    """A bounded queue is full.

    To do: send it again after ``Retry-After``, with fewer requests at once. Often: more instances.
    """

    code = "queue-full"
    title = "Too many requests are waiting"
    status = 429


class RateLimited(TryAgain):
    """The user, or the token, sends more than its limits allow: requests a second, requests at once, texts to embed.

    ``limit_name`` and ``limit`` say which limit.

    To do: wait for ``Retry-After``, and send less at once; or ask the operator for a higher limit.
    """

    code = "rate-limited"
    title = "The user sends more than its limits allow"
    status = 429


class MemoryShort(TryAgain):
    """The instance is short of memory, and opens no further vectorstore until it has some again.

    To do: send it again after ``Retry-After``. Often: more memory, smaller ``open_bytes``, or more instances.
    """

    code = "memory-short"
    title = "The instance is short of memory"
    retry_after_s = 5.0


class TooManyConnections(TryAgain):
    """The caller, or all callers together, have as many connections as the instance allows.

    To do: close idle connections, and reuse them. Behind a balancer: name it in ``trusted_proxies``.
    """

    code = "too-many-connections"
    title = "Too many connections are open"
    status = 429


class Draining(TryAgain):
    """The instance is shutting down and takes no new work.

    To do: send it again: another instance takes it.
    """

    code = "draining"
    title = "The instance is shutting down"


class ShardUnavailable(TryAgain):
    """The shard's process died; it is being started again.

    To do: send it again after ``Retry-After``. Often: look at the log for the reason of the shard's end.
    """

    code = "shard-unavailable"
    title = "The shard is being started again"


class TokenKeysUnavailable(TryAgain):
    """The keys that verify the token cannot be fetched from its issuer, so it is neither taken nor refused.

    To do: send it again. If it stays, look whether the instance reaches ``token_jwks``; the log has the reason.
    """

    code = "token-keys-unavailable"
    title = "The keys of the token's issuer cannot be fetched"


class Quarantined(TryAgain):
    """The user's commands were in native code at two crashes, and cannot be served apart from others at the moment.

    To do: send it again after ``Retry-After``, or to another instance. GET /admin/pool lists such users, and until
    when.
    """

    code = "quarantined"
    title = "The user is in quarantine"
    retry_after_s = 30.0


class StoreUnavailable(TryAgain):
    """The object store did not answer, after bounded retries, or refuses. Nothing was written, and nothing will be.

    To do: send it again after ``Retry-After``. If it stays, look at the store's credentials, rights and status.
    """

    code = "store-unavailable"
    title = "The object store does not answer"
    retry_after_s = 2.0


class StoreFull(StoreUnavailable):
    """The object store has no room for the write, and nothing of it was written.

    To do: make room in the store, or raise its quota; then send it again.
    """

    code = "store-full"
    title = "The object store is full"
    retry_after_s = 5.0


class LocalDiskFailed(TryAgain):
    """The instance's local disk is full or failing; another instance can serve the user meanwhile.

    To do: send it again: another instance can serve the user. Make room on this one's disk, or replace it.
    """

    code = "local-disk-failed"
    title = "The instance's local disk is full or failing"
    retry_after_s = 5.0


class NewerEngine(TryAgain):
    """A later version wrote the vectorstore, with a schema that this instance does not know; nothing was touched.

    To do: send it again, to an instance of the newer version. Upgrade this one.
    """

    code = "newer-engine"
    title = "A later version wrote the vectorstore"


class EmbedderUnavailable(TryAgain):
    """The embedding endpoint did not answer, after bounded retries.

    To do: send it again after ``Retry-After``. If it stays, look at the endpoint, its key and its limits; or send
    embeddings.
    """

    code = "embedder-unavailable"
    title = "The embedding provider does not answer"
    retry_after_s = 2.0


class DeadlineExceeded(TryAgain):
    """The request's time is over (``request_timeout_s``). It changed nothing.

    To do: send a smaller request, or raise ``request_timeout_s``. The log line says in ``parts`` where the time
    went.
    """

    code = "deadline-exceeded"
    title = "The request took longer than its time limit"


class OutcomeUnknown(TryAgain):
    """The write may or may not be durable. Look first, or send one that may be repeated (upsert, delete by ids).

    To do: read what you wrote, or send the same upsert or delete by ids again.
    """

    code = "outcome-unknown"
    title = "It is not known whether the write was committed"
    retry_after_s = 5.0


class JobsUnavailable(TryAgain):
    """The instance's worker is being started, or the database of its jobs does not answer.

    To do: send it again after ``Retry-After``. If it stays, look at the task ``jobs worker`` and at ``jobs_url``.
    """

    code = "jobs-unavailable"
    title = "Jobs are not available at the moment"
    retry_after_s = 2.0


class ServiceUnavailable(TryAgain):
    """The service did not answer a worker; the job goes on when it does.

    To do: nothing: the worker asks again. If it stays, look at ``service_url`` and at the service.
    """

    code = "service-unavailable"
    title = "The service does not answer the worker"
    retry_after_s = 2.0


class JobStalled(TryAgain):
    """Nothing of the job was done for a long time; what was under way was given up.

    To do: retry the job. If it stalls again, look at the log of the worker for the document that it was at.
    """

    code = "job-stalled"
    title = "The job did not go on"


class WorkerDied(TryAgain):
    """Workers died under the job several times, and none of them got further; it is not started again by itself.

    To do: look at the worker's log and memory, then retry the job; leave out the document at which it died.
    """

    code = "worker-died"
    title = "Workers died under the job"
