"""The tables of the record of jobs, and the migrations that made them.

``vectorpool_jobs_schema`` holds how many migrations were applied. A released migration never changes; a change of the
tables appends one. New columns have a default, so that a worker of the version before goes on beside this one.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from vectorpool.errors import Misconfigured

metadata = sa.MetaData()
jobs = sa.Table(
    "vectorpool_jobs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("avatar_id", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    # JSON: the paths, or null for the whole avatar.
    sa.Column("paths", sa.Text, nullable=False),
    sa.Column("force", sa.Boolean, nullable=False),
    # JSON: how to cut this time, or null for as the avatar does.
    sa.Column("choice", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("run", sa.Integer, nullable=False),
    # Runs that ended without a note of anything done: their workers died.
    sa.Column("deaths", sa.Integer, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("touched_ms", sa.BigInteger, nullable=False),
    sa.Column("started_ms", sa.BigInteger),
    sa.Column("finished_ms", sa.BigInteger),
    sa.Column("counts", sa.Text, nullable=False),
    sa.Column("commit", sa.BigInteger, nullable=False),
    sa.Column("path", sa.Text),
    sa.Column("code", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("version", sa.Integer, nullable=False),
    # JSON: what is to be told to others, and by which names (views.JobOptions), or null.
    sa.Column("options", sa.Text, nullable=False, server_default="null"),
    # A name of the job for clients that know only numbers; below 2**53.
    sa.Column("number", sa.BigInteger),
    # The span of the request that asked for the job, in W3C's form; empty without one.
    sa.Column("traceparent", sa.String(64), nullable=False, server_default=""),
    # JSON: what an export or import moves (views.Transfer), or null.
    sa.Column("transfer", sa.Text, nullable=False, server_default="null"),
    sa.Index("vectorpool_jobs_of_user", "user_id", "id"),
    sa.Index("vectorpool_jobs_by_state", "state", "touched_ms"),
    sa.Index("vectorpool_jobs_by_number", "user_id", "number", unique=True),
)
documents = sa.Table(
    "vectorpool_job_documents",
    metadata,
    sa.Column("job_id", sa.String(64), primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("outcome", sa.LargeBinary, nullable=False),
)

# What targets hold, as far as it is known: it saves questions.
exports = sa.Table(
    "vectorpool_exports",
    metadata,
    sa.Column("target", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("commit", sa.BigInteger, nullable=False),
    sa.Column("exported_ms", sa.BigInteger, nullable=False),
)

# Statements, each for SQLite and PostgreSQL alike.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    # IF NOT EXISTS: databases from before the first release have the tables and no version.
    (
        """
        CREATE TABLE IF NOT EXISTS vectorpool_jobs (
          id VARCHAR(64) PRIMARY KEY, user_id TEXT NOT NULL, avatar_id TEXT NOT NULL, kind VARCHAR(16) NOT NULL,
          state VARCHAR(16) NOT NULL, paths TEXT NOT NULL, force BOOLEAN NOT NULL, choice TEXT NOT NULL,
          attempt INTEGER NOT NULL, run INTEGER NOT NULL, deaths INTEGER NOT NULL, created_ms BIGINT NOT NULL,
          touched_ms BIGINT NOT NULL, started_ms BIGINT, finished_ms BIGINT, counts TEXT NOT NULL,
          "commit" BIGINT NOT NULL, path TEXT, code TEXT, reason TEXT, version INTEGER NOT NULL
        )
        """,
        "CREATE INDEX IF NOT EXISTS vectorpool_jobs_of_user ON vectorpool_jobs (user_id, id)",
        "CREATE INDEX IF NOT EXISTS vectorpool_jobs_by_state ON vectorpool_jobs (state, touched_ms)",
        """
        CREATE TABLE IF NOT EXISTS vectorpool_job_documents (
          job_id VARCHAR(64) NOT NULL, path TEXT NOT NULL, status VARCHAR(16) NOT NULL, outcome {bytes} NOT NULL,
          PRIMARY KEY (job_id, path)
        )
        """,
    ),
    # What is to be told to others of a job, and its number for clients that know only numbers.
    (
        "ALTER TABLE vectorpool_jobs ADD COLUMN options TEXT NOT NULL DEFAULT 'null'",
        "ALTER TABLE vectorpool_jobs ADD COLUMN number BIGINT",
        "CREATE UNIQUE INDEX vectorpool_jobs_by_number ON vectorpool_jobs (user_id, number)",
    ),
    # The trace that a job belongs to.
    ("ALTER TABLE vectorpool_jobs ADD COLUMN traceparent VARCHAR(64) NOT NULL DEFAULT ''",),
    # Exports and imports.
    (
        "ALTER TABLE vectorpool_jobs ADD COLUMN transfer TEXT NOT NULL DEFAULT 'null'",
        """
        CREATE TABLE vectorpool_exports (
          target VARCHAR(64) NOT NULL, user_id TEXT NOT NULL, "commit" BIGINT NOT NULL, exported_ms BIGINT NOT NULL,
          PRIMARY KEY (target, user_id)
        )
        """,
    ),
)


def migrate(db: sa.Connection) -> None:
    """Apply what a database lacks, in the caller's transaction. Raises Misconfigured for one of a later version."""
    db.exec_driver_sql("CREATE TABLE IF NOT EXISTS vectorpool_jobs_schema (version INTEGER NOT NULL)")
    applied = db.exec_driver_sql("SELECT max(version) FROM vectorpool_jobs_schema").scalar() or 0
    if applied > len(MIGRATIONS):
        raise Misconfigured(
            f"The database of jobs is of a later version of vectorpool ({applied}, this one knows {len(MIGRATIONS)}). "
            "Upgrade this instance, or set jobs_url to another database."
        )
    of_bytes = "BYTEA" if db.dialect.name == "postgresql" else "BLOB"
    for number, statements in enumerate(MIGRATIONS[applied:], applied + 1):
        for statement in statements:
            db.exec_driver_sql(statement.replace("{bytes}", of_bytes))
        db.exec_driver_sql(f"INSERT INTO vectorpool_jobs_schema (version) VALUES ({number})")
