"""Every figure by its name: what it means, its labels, its buckets. The reference and the scrape are made from this.

A name ends with its unit, and a counter with ``_total``. A label has a bounded number of values: routes are templates,
and what is not known beforehand (a method, a status) is counted under a name that stands for the rest.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

# Seconds: from well below the time of a warm read to the longest time limit of a request.
TIMES_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
# Seconds between two verifications of a log: a minute to four weeks.
AGES_S: Final = (60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 259_200.0, 604_800.0, 1_209_600.0, 2_419_200.0)


class Family(msgspec.Struct, frozen=True):
    """All figures of one name. ``labels`` are the names of its labels, ``buckets`` the upper bounds of a histogram."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


FAMILIES: Final[dict[str, Family]] = {}


def _family(name: str, kind: Kind, text: str, *labels: str, buckets: tuple[float, ...] = ()) -> Family:
    family = Family(f"vectorpool_{name}", kind, text, labels, buckets)
    assert family.name not in FAMILIES, f"{name} is declared twice"
    FAMILIES[family.name] = family
    return family


def _counter(name: str, text: str, *labels: str) -> Family:
    return _family(f"{name}_total", "counter", text, *labels)


def _gauge(name: str, text: str, *labels: str) -> Family:
    return _family(name, "gauge", text, *labels)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = TIMES_S) -> Family:
    return _family(name, "histogram", text, *labels, buckets=buckets)


# --- Requests ----------------------------------------------------------------------------------------

REQUESTS: Final = _counter(
    "requests",
    "Responses by route template, method, status and protocol; 499 means that the caller left before there was one",
    "route",
    "method",
    "status",
    "protocol",
)
REQUEST_TIME: Final = _histogram(
    "request_seconds", "Time from the request's headers to the end of its response", "route", "protocol"
)
PART_TIME: Final = _histogram(
    "request_part_seconds",
    "Time of requests by part: queue, embed, hydrate, freshness, engine, commit; store is contained in hydrate, "
    "freshness and commit. Counted for requests in which the part occurred",
    "part",
)
SLOW_REQUESTS: Final = _counter("slow_requests", "Requests that took longer than slow_request_s", "protocol")
UNDER_WAY: Final = _gauge("requests_under_way", "Requests that are being answered")
UNDER_WAY_LIMIT: Final = _gauge("requests_under_way_limit", "Most requests under way: max_requests")
CONNECTIONS: Final = _gauge("connections", "Open connections of callers")
CONNECTIONS_LIMIT: Final = _gauge("connections_limit", "Most connections: max_connections")

# --- Vectorstores ------------------------------------------------------------------------------------

HYDRATE_TIME: Final = _histogram(
    "hydration_seconds",
    "Time to build a replica, by the tier that its log objects came from: store, warm, mixed, or empty for a new user",
    "tier",
)
HYDRATE_FAILURES: Final = _counter("hydration_failures", "Replicas that could not be built, by error code", "code")
HYDRATE_BYTES: Final = _counter("hydration_bytes", "Bytes of log objects that were read from the store to hydrate")
COMMITS: Final = _counter(
    "commits",
    "Commits that were offered to the store: committed, lost (a lost race), unknown (no answer), refused",
    "outcome",
)
COMMIT_TIME: Final = _histogram("commit_seconds", "Time to offer one commit to the store until its outcome")
COMMIT_BYTES: Final = _counter("commit_bytes", "Bytes of commits that were made")
REBASES: Final = _counter("rebases", "Replicas that were built again because another writer won a number")
CATCH_UPS: Final = _counter("catch_ups", "Replicas that were built again because a read found a newer commit")
EVICTIONS: Final = _counter(
    "evictions",
    "Vectorstores that were closed: idle, room (another one needed the place), bytes, asked, absent",
    "reason",
)
COMPACTIONS: Final = _counter("compactions", "Compactions that wrote objects, or failed", "outcome")
COMPACTION_BYTES: Final = _counter("compaction_bytes", "Bytes of bases and merged deltas that compactions wrote")
VERIFICATIONS: Final = _counter("verifications", "Logs verified in the background: ok, damaged, failed", "outcome")
VERIFICATION_INTERVAL: Final = _histogram(
    "verification_interval_seconds", "Age that a log's last verification had when it was verified again", buckets=AGES_S
)
VERIFICATION_AGE: Final = _gauge(
    "verification_age_seconds", "Age of the oldest verification among the logs of a shard, as it knows", "shard"
)
VERIFICATION_WAITING: Final = _gauge(
    "verification_waiting_logs", "Logs that are due for verification and wait for it", "shard"
)

# --- Pools and processes -----------------------------------------------------------------------------

SHARD_UP: Final = _gauge("shard_up", "1 if a shard serves, 0 while it is started again", "shard")
SHARD_SILENT: Final = _gauge("shard_silent", "1 if a shard gave no figures for this scrape in time", "shard")
SHARD_UNDER_WAY: Final = _gauge("shard_requests_under_way", "Requests that a shard has not answered yet", "shard")
SHARD_DEATHS: Final = _counter("shard_deaths", "Shards that ended unexpectedly and were started again", "shard")
QUARANTINED: Final = _gauge("quarantined_users", "Users in quarantine")
SLOTS: Final = _gauge("pool_slots", "Slots of a pool by state", "shard", "state")
OPEN_SLOTS: Final = _gauge(
    "pool_open_slots", "Places in use: open vectorstores, and those being opened or closed", "shard"
)
OPEN_SLOTS_LIMIT: Final = _gauge("pool_open_slots_limit", "Most open vectorstores of a pool: open_slots", "shard")
OPEN_BYTES: Final = _gauge("pool_open_bytes", "Bytes of open working directories", "shard")
OPEN_BYTES_LIMIT: Final = _gauge("pool_open_bytes_limit", "Most bytes of working directories: open_bytes", "shard")
WARM_BYTES: Final = _gauge("pool_warm_bytes", "Bytes of log objects cached on local disk", "shard")
WARM_BYTES_LIMIT: Final = _gauge("pool_warm_bytes_limit", "Most bytes of cached log objects: warm_bytes", "shard")
POOL_WAITING: Final = _gauge("pool_waiting_requests", "Requests that wait for a place in a pool", "shard")
POOL_WAITING_LIMIT: Final = _gauge("pool_waiting_requests_limit", "Most of them: slot_waiters", "shard")
QUEUED_WRITES: Final = _gauge("pool_queued_writes", "Writes that wait for the writers of their slots", "shard")
QUEUED_BYTES: Final = _gauge("pool_queued_bytes", "Bytes of writes that wait", "shard")
UNCOMMITTED: Final = _gauge("pool_uncommitted", "Vectorstores that hold writes that are not committed", "shard")
MEMORY: Final = _gauge("process_memory_bytes", "Resident memory of a process", "process")
DESCRIPTORS: Final = _gauge("process_descriptors", "Open file descriptors of a process", "process")
DESCRIPTORS_LIMIT: Final = _gauge("process_descriptors_limit", "Most open file descriptors of a process", "process")
THREADS: Final = _gauge("process_threads", "Threads of a process", "process")
CPU: Final = _counter("process_cpu_seconds", "Processor time, user and system, that a process used", "process")

# --- The store ---------------------------------------------------------------------------------------

STORE_REQUESTS: Final = _counter(
    "store_requests",
    "Calls of the object store by operation and outcome: ok, missing, exists, denied, unavailable, cancelled, failed. "
    "Retries are inside of a call",
    "operation",
    "outcome",
)
STORE_TIME: Final = _histogram(
    "store_request_seconds", "Time of calls of the object store, retries included", "operation"
)
STORE_SENT: Final = _counter("store_sent_bytes", "Bytes of object bodies sent to the store", "operation")
STORE_RECEIVED: Final = _counter("store_received_bytes", "Bytes of object bodies received from the store", "operation")

# --- Embedding ---------------------------------------------------------------------------------------

EMBEDDED_TEXTS: Final = _counter("embedding_texts", "Texts embedded")
EMBEDDED_TOKENS: Final = _counter(
    "embedding_tokens", "Tokens of texts embedded, as the model or the endpoint counts them"
)
EMBEDDING_BATCHES: Final = _counter("embedding_batches", "Runs of the model, or requests to the endpoint", "outcome")
EMBEDDING_TIME: Final = _histogram("embedding_batch_seconds", "Time of one run of the model")
EMBEDDING_WAIT: Final = _histogram("embedding_wait_seconds", "Time from a call of the embedder to its vectors")
EMBEDDING_QUEUE: Final = _gauge(
    "embedding_queued_texts", "Texts that wait to be embedded: of questions, or long", "lane"
)
EMBEDDING_QUEUE_LIMIT: Final = _gauge("embedding_queued_texts_limit", "Most texts that may wait", "lane")

# --- Background work and the instance ----------------------------------------------------------------

HEALTH_CHECKS: Final = _counter(
    "health_checks",
    "Checks of users' health: healthy, degraded, damaged, unknown (it could not be found out), skipped (another "
    "instance checked it)",
    "outcome",
)
HEALTH_WAITING: Final = _gauge("health_waiting_users", "Users that were used and wait for a check of their health")
HEALTH_UNWELL: Final = _gauge("unwell_users", "Users whose last check by this instance was not healthy", "state")
CANARY: Final = _counter("canary_rounds", "Rounds of the canary: ok, failed", "outcome")
CANARY_TIME: Final = _histogram("canary_seconds", "Time of the canary's requests: write, read, delete", "step")
RECOVERIES: Final = _counter("recoveries", "Recoveries of vectorstores: done, failed", "outcome")
NOTIFICATIONS: Final = _counter("notifications", "Notifications that were opened or opened again", "kind")

JOBS: Final = _gauge("jobs", "Jobs by state", "state")
TASKS: Final = _gauge("background_tasks", "Background tasks by state: running, restarting, down, ended", "state")
TASK_FAILURES: Final = _gauge("background_task_failures", "Failures of the background tasks that there are now")
READY: Final = _gauge("ready", "1 while the instance takes work, as /health/ready says")
STARTED: Final = _gauge("start_time_seconds", "When the instance started, seconds since 1970")
BUILD: Final = _gauge("build_info", "1, with the version of vectorpool", "version")
SCRAPE_FAILURES: Final = _counter("scrape_source_failures", "Sources of figures that failed or were too slow", "source")
TRACES_DROPPED: Final = _counter(
    "trace_spans_dropped", "Spans that were not sent, because the collector was away or slow"
)


def table() -> str:
    """Return the table of figures, in Markdown."""
    lines = ["| name | kind | labels | meaning |", "|---|---|---|---|"]
    for family in FAMILIES.values():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{family.name}` | {family.kind} | {labels} | {family.text} |")
    return "\n".join(lines)
