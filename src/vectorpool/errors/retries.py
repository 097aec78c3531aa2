"""Errors that call for patience: the same request, sent again later, may pass."""

from __future__ import annotations

from vectorpool.errors.base import VectorpoolError


class TryAgain(VectorpoolError):
    """Nothing is wrong with the request; sent again later it may pass."""

    code = "try-again"
    title = "Try again later"
    status = 503
    retry_after_s = 1.0


class PoolBusy(TryAgain):
    """Every slot is in use and the waiting room is full, or the wait was too long."""

    code = "pool-busy"
    title = "Every slot is in use"


class QueueFull(TryAgain):
    """A bounded queue is full."""

    code = "queue-full"
    title = "Too many requests are waiting"
    status = 429


class RateLimited(TryAgain):
    """The user, or the token, sends more than its limits allow: requests a second, requests at once, texts to embed.

    ``limit_name`` and ``limit`` say which limit.
    """

    code = "rate-limited"
    title = "The user sends more than its limits allow"
    status = 429


class MemoryShort(TryAgain):
    """The instance is short of memory, and opens no further vectorstore until it has some again."""

    code = "memory-short"
    title = "The instance is short of memory"
    retry_after_s = 5.0


class TooManyConnections(TryAgain):
    """The caller, or all callers together, have as many connections as the instance allows."""

    code = "too-many-connections"
    title = "Too many connections are open"
    status = 429


class Draining(TryAgain):
    """The instance is shutting down and takes no new work."""

    code = "draining"
    title = "The instance is shutting down"


class ShardUnavailable(TryAgain):
    """The shard's process died; it is being started again."""

    code = "shard-unavailable"
    title = "The shard is being started again"


class TokenKeysUnavailable(TryAgain):
    """The keys that verify the token cannot be fetched from its issuer, so it is neither taken nor refused."""

    code = "token-keys-unavailable"
    title = "The keys of the token's issuer cannot be fetched"


class Quarantined(TryAgain):
    """The user's commands were in native code at two crashes, and cannot be served apart from others at the moment."""

    code = "quarantined"
    title = "The user is in quarantine"
    retry_after_s = 30.0


class StoreUnavailable(TryAgain):
    """The object store did not answer, after bounded retries, or refuses. Nothing was written, and nothing will be."""

    code = "store-unavailable"
    title = "The object store does not answer"
    retry_after_s = 2.0


class StoreFull(StoreUnavailable):
    """The object store has no room for the write, and nothing of it was written."""

    code = "store-full"
    title = "The object store is full"
    retry_after_s = 5.0


class LocalDiskFailed(TryAgain):
    """The instance's local disk is full or failing; another instance can serve the user meanwhile."""

    code = "local-disk-failed"
    title = "The instance's local disk is full or failing"
    retry_after_s = 5.0


class NewerEngine(TryAgain):
    """A later version wrote the vectorstore, with a schema that this instance does not know; nothing was touched."""

    code = "newer-engine"
    title = "A later version wrote the vectorstore"


class EmbedderUnavailable(TryAgain):
    """The embedding endpoint did not answer, after bounded retries."""

    code = "embedder-unavailable"
    title = "The embedding provider does not answer"
    retry_after_s = 2.0


class DeadlineExceeded(TryAgain):
    """The request's time is over (``request_timeout_s``). It changed nothing."""

    code = "deadline-exceeded"
    title = "The request took longer than its time limit"


class OutcomeUnknown(TryAgain):
    """The write may or may not be durable. Look first, or send one that may be repeated (upsert, delete by ids)."""

    code = "outcome-unknown"
    title = "It is not known whether the write was committed"
    retry_after_s = 5.0


class JobsUnavailable(TryAgain):
    """The instance's worker is being started, or the database of its jobs does not answer."""

    code = "jobs-unavailable"
    title = "Jobs are not available at the moment"
    retry_after_s = 2.0


class ServiceUnavailable(TryAgain):
    """The service did not answer a worker; the job goes on when it does."""

    code = "service-unavailable"
    title = "The service does not answer the worker"
    retry_after_s = 2.0


class JobStalled(TryAgain):
    """Nothing of the job was done for a long time; what was under way was given up."""

    code = "job-stalled"
    title = "The job did not go on"


class WorkerDied(TryAgain):
    """Workers died under the job several times, and none of them got further; it is not started again by itself."""

    code = "worker-died"
    title = "Workers died under the job"


class TargetUnavailable(TryAgain):
    """The target of an export, or the source of an import, does not answer in time. The copy is as it was before."""

    code = "target-unavailable"
    title = "The other database does not answer"
    retry_after_s = 30.0
