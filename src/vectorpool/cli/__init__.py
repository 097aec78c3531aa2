"""The command line: the name and the parameters of each command. The work is in the other modules of this package.

Those modules load the web framework, models or Chroma. So a command's module is imported only when the command runs,
and ``vectorpool --help`` stays quick. An expected failure is one sentence on stderr, without a
traceback. The exit code is 2 if the configuration must change, else 1.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from vectorpool.cli.admin import admin, audit, top
from vectorpool.cli.options import DOCUMENTS, EVERYTHING, KEPT, SERVICE, STORE, WORKER, settings_options
from vectorpool.errors import Misconfigured, VectorpoolError
from vectorpool.platform.privacy import keep_private
from vectorpool.settings import Settings
from vectorpool.version import __version__


class _Commands(click.Group):
    """Lists commands in the order of their declaration, and prints errors as sentences."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VectorpoolError as error:
            click.echo(f"vectorpool: {error.detail}", err=True)
            sys.exit(2 if isinstance(error, Misconfigured) else 1)


def _work(module: str, function: str, settings: Settings, *arguments: Any) -> None:
    if function not in ("serve", "export"):
        # What they build on the local disk is theirs alone. The shards of ``serve`` see to that themselves, and what is
        # exported has the modes that the caller's umask gives.
        keep_private()
    exit_code = getattr(importlib.import_module(f"vectorpool.cli.{module}"), function)(settings, *arguments)
    if exit_code:
        sys.exit(exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vectorpool")
def main() -> None:
    """One private Chroma vectorstore per user, on containers that have no disk.

    \b
    Start the service with everything embedded (a directory as object store, a model that is installed):
      vectorpool serve
    Put a folder of documents into the store for avatar 7 of user 42, and ask:
      vectorpool ingest ./docs --user 42 --avatar 7
      vectorpool query "How long is the warranty?" --user 42 --avatar 7
    The same against S3:
      vectorpool serve --store s3://bucket/prefix

    Every setting is a flag, an environment variable (VECTORPOOL_STORE for --store) or a line of a TOML file
    (--config), in this order.
    """


_USER = click.option("--user", "user_id", required=True, metavar="ID", help="The user.")
_AVATAR = click.option("--avatar", "avatar_id", required=True, metavar="ID", help="The avatar.")


@main.command()
@settings_options(EVERYTHING)
def serve(settings: Settings) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C, then finish and commit.

    \b
    vectorpool serve
    vectorpool serve --host 0.0.0.0 --port 8000 --store s3://bucket/prefix
    vectorpool serve --store ./store --replica-dir /tmp/replicas --shards 2
    """
    _work("server", "serve", settings)


@main.command()
@settings_options(WORKER)
def worker(settings: Settings) -> None:
    """Run jobs of a service, anywhere, until SIGTERM or Ctrl-C.

    It takes jobs from the database that the instances of the service share (VECTORPOOL_JOBS_URL, postgresql://), reads
    documents from the store, embeds them, and sends records to the service (VECTORPOOL_SERVICE_URL), with a token that
    may touch every user (VECTORPOOL_SERVICE_TOKEN). A job of a worker that dies goes on in another one.

    \b
    VECTORPOOL_JOBS_URL=postgresql://... VECTORPOOL_SERVICE_URL=https://vectors.example \\
      vectorpool worker --store s3://bucket/prefix
    """
    _work("jobs", "worker", settings)


@main.command()
@click.argument("user_id", metavar="USER")
@click.argument("job_id", metavar="JOB", required=False)
@click.option("--avatar", "avatar_id", metavar="ID", help="List only jobs of this avatar.")
@click.option(
    "--state", type=click.Choice(["queued", "running", "done", "failed", "cancelled"]), help="List only these."
)
@click.option("--follow", "action", flag_value="follow", help="Show the job's progress until it is finished.")
@click.option("--cancel", "action", flag_value="cancel", help="Cancel the job.")
@click.option("--retry", "action", flag_value="retry", help="Take what failed again.")
@settings_options(SERVICE)
def jobs(
    settings: Settings, user_id: str, job_id: str | None, avatar_id: str | None, state: str | None, action: str | None
) -> None:
    """List a user's jobs, or show, follow, cancel or retry one, at a running service (VECTORPOOL_SERVICE_URL).

    Exit code 1 if the job that is shown or followed failed, or a document of it.

    \b
    vectorpool jobs 42 --state running
    vectorpool jobs 42 1795836097405-90a866ba-ea9 --follow
    """
    if job_id is None and action is not None:
        raise click.UsageError("Name the job.")
    if job_id is not None and (avatar_id or state):
        raise click.UsageError("--avatar and --state are for the list.")
    _work("jobs", "jobs", settings, user_id, job_id, avatar_id, state, action)


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_USER
@_AVATAR
@click.option("--force", is_flag=True, help="Ingest unchanged documents too.")
@click.option("--mirror", is_flag=True, help="Delete documents that are no files of FOLDER, with their records.")
@click.option("--service", metavar="URL", help="Work through the service at this URL instead of on the store.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --service: a file that holds the token. Without it, VECTORPOOL_TOKEN is read.",
)
@settings_options(DOCUMENTS)
def ingest(settings: Settings, folder: Path, user_id: str, avatar_id: str, **how: Any) -> None:
    """Upload the changed files of FOLDER and make records of them.

    Works on the store itself, also while a service serves the same user: the commit log orders the writes of both. Or
    works through a service, with --service. Hidden files are skipped, and so are links out of FOLDER. Exit code 1 if a
    document failed; the others are ingested.

    \b
    vectorpool ingest ./docs --user 42 --avatar 7
    vectorpool ingest ./docs --user 42 --avatar 7 --mirror --service http://127.0.0.1:8000
    """
    arguments = (how[name] for name in ("force", "mirror", "service", "token_file"))
    _work("folders", "ingest", settings, folder, user_id, avatar_id, *arguments)


@main.command()
@click.argument("text")
@_USER
@_AVATAR
@click.option("-n", "n_results", default=3, show_default=True, type=click.IntRange(1, 100), help="How many passages.")
@click.option("--at", type=click.IntRange(1), metavar="COMMIT", help="As of this commit; the newest if left out.")
@settings_options(DOCUMENTS)
def query(settings: Settings, text: str, user_id: str, avatar_id: str, n_results: int, at: int | None) -> None:
    """Find the passages of an avatar's documents that answer TEXT best.

    \b
    vectorpool query "How long is the warranty?" --user 42 --avatar 7 -n 5
    """
    _work("documents", "query", settings, text, user_id, avatar_id, n_results, at)


@main.command()
@click.argument("name")
@click.option("--user", "user_ids", multiple=True, metavar="ID", help="A user that it may touch; may be repeated.")
@click.option("--every-user", is_flag=True, help="It may touch every user.")
@click.option("--admin", "is_admin", is_flag=True, help="It may use /admin.")
@click.option("--jwt", "is_jwt", is_flag=True, help="Sign a JSON web token instead, which no file has to list.")
@click.option("--avatar", "avatar_ids", multiple=True, metavar="ID", help="With --jwt: only this avatar; repeatable.")
@click.option("--access", type=click.Choice(["read", "write"]), help="With --jwt: may it write?  [default: read]")
@click.option(
    "--ttl", "ttl_s", type=click.IntRange(1), metavar="S", help="With --jwt: it expires after.  [default: 3600]"
)
@click.option("--config", metavar="FILE", help="With --jwt: a TOML file with settings.")
def token(name: str, user_ids: tuple[str, ...], every_user: bool, is_admin: bool, is_jwt: bool, **of_jwt: Any) -> None:
    """Make a token for the caller NAME; print it, and the lines for the tokens file (--tokens-file).

    The token is printed on stderr and stored nowhere; the lines are printed on stdout and contain no secret. A service
    reads the file when it starts, and again when it changes.

    With --jwt the token is signed by the first secret of VECTORPOOL_TOKEN_SECRET or VECTORPOOL_TOKEN_SECRET_FILE, and
    printed on stdout, alone; its id, which revokes it, is printed on stderr.

    \b
    vectorpool token alice --user 42 --user 43 >> tokens.toml
    vectorpool token operator --admin >> tokens.toml
    vectorpool token backend --every-user >> tokens.toml
    vectorpool token app --jwt --user 42 --avatar 7 --access write --ttl 86400
    """
    if bool(user_ids) == every_user and (every_user or not is_admin):
        raise click.UsageError("Say what the token allows: --user, --every-user or --admin.")
    module = importlib.import_module("vectorpool.cli.tokens")
    if is_jwt:
        module.signed_token(name, user_ids, every_user, is_admin, **of_jwt)
        return
    if any(of_jwt.values()):
        raise click.UsageError("--avatar, --access, --ttl and --config go with --jwt.")
    module.token(name, user_ids, every_user, is_admin)


@main.command()
@click.argument("token_id", metavar="ID")
@click.option("--until", metavar="TIME", help="When the token expires, such as 2026-11-21T09:00:00Z.")
@settings_options(STORE)
def revoke(settings: Settings, token_id: str, until: str | None) -> None:
    """Revoke the JSON web token of the id (jti) ID. Every instance refuses it within a minute.

    Without --until the id stays in the list of revoked tokens for good.

    \b
    vectorpool revoke 5f0c2a6e-1f0e-4d0a-9b6e-0f5c1f7f3a11 --store s3://bucket/prefix
    """
    _work("tokens", "revoke", settings, token_id, until)


@main.command()
@settings_options(STORE)
def users(settings: Settings) -> None:
    """List the users that have anything in the store.

    \b
    vectorpool users --store s3://bucket/prefix
    """
    _work("logs", "users", settings)


@main.command()
@click.argument("user_id", metavar="USER")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many commits.")
@settings_options(STORE)
def log(settings: Settings, user_id: str, limit: int) -> None:
    """Show a user's commits, newest first.

    \b
    vectorpool log 42
    """
    _work("logs", "log", settings, user_id, limit)


@main.command()
@click.argument("user_ids", metavar="[USER]...", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="Every user of the store.")
@settings_options(STORE)
def scrub(settings: Settings, user_ids: tuple[str, ...], everyone: bool) -> None:
    """Verify commit logs: every checksum, the chain of commits, every base and merged delta.

    Reads all objects of a log and changes nothing. Exit code 1 if anything is damaged; the report then names the
    newest commit that is intact.

    \b
    vectorpool scrub 42 43
    vectorpool scrub --all
    """
    if bool(user_ids) == everyone:
        raise click.UsageError("Name users, or give --all.")
    _work("logs", "scrub", settings, user_ids)


@main.command()
@click.argument("user_id", metavar="USER")
@click.option("--commit", type=click.IntRange(1), metavar="COMMIT", help="The commit to go back to.")
@click.option("--time", metavar="TIME", help="Go back to a time, such as 2026-11-21T09:00:00Z.")
@click.option("--backup", metavar="NAME", help="Go back to the commit of a backup.")
@settings_options(KEPT)
def restore(settings: Settings, user_id: str, commit: int | None, time: str | None, backup: str | None) -> None:
    """Make the state of an earlier commit the newest, as a new commit. The history stays.

    Documents that were replaced or deleted since come back as well, as far as they are kept (--retention-s), to paths
    that are free or that hold what the service itself wrote. Exit code 1 if a document could not be read or written.

    \b
    vectorpool restore 42 --commit 17
    vectorpool restore 42 --time 2026-11-21T09:00:00Z
    vectorpool restore 42 --backup before-migration
    """
    if sum(each is not None for each in (commit, time, backup)) != 1:
        raise click.UsageError("Give --commit, --time or --backup, one of them.")
    _work("backups", "restore", settings, user_id, commit, time, backup)


@main.command()
@click.argument("user_id", metavar="USER")
@click.argument("name", required=False)
@click.option("--commit", type=click.IntRange(1), metavar="COMMIT", help="The commit to keep; the newest if left out.")
@click.option("--delete", "forget", is_flag=True, help="Delete the backup instead of creating it.")
@settings_options(STORE)
def backup(settings: Settings, user_id: str, name: str | None, commit: int | None, forget: bool) -> None:
    """Name a commit, which protects it from garbage removal; without NAME, list the backups.

    \b
    vectorpool backup 42
    vectorpool backup 42 before-migration
    vectorpool backup 42 before-migration --delete
    """
    if name is None and (forget or commit is not None):
        raise click.UsageError("Name the backup.")
    if forget and commit is not None:
        raise click.UsageError("--delete takes no --commit.")
    _work("backups", "backup", settings, user_id, name, commit, forget)


@main.command()
@click.argument("user_id", metavar="USER")
@click.argument("target_user_id", metavar="TARGET")
@click.option("--commit", type=click.IntRange(1), metavar="COMMIT", help="The commit to fork; the newest if left out.")
@settings_options(KEPT)
def fork(settings: Settings, user_id: str, target_user_id: str, commit: int | None) -> None:
    """Copy a user's vectorstore and its documents to another user, who has no vectorstore yet.

    \b
    vectorpool fork 42 43
    """
    _work("backups", "fork", settings, user_id, target_user_id, commit)


@main.command(name="export")
@click.argument("user_id", metavar="USER")
@click.argument("target", metavar="TARGET")
@click.option("--at", type=click.IntRange(1), metavar="COMMIT", help="As of this commit; the newest if left out.")
@settings_options(STORE)
def export(settings: Settings, user_id: str, target: str, at: int | None) -> None:
    """Write a user's vectorstore to TARGET: a directory, or a URL of another system.

    A directory becomes a plain Chroma directory, and must be empty or missing; it opens with
    chromadb.PersistentClient(DIR, database="avatar-7"). At a URL, a later export writes only what changed, and
    the export of a deleted user deletes what is there.

    \b
    vectorpool export 42 ./chroma-of-42
    vectorpool export 42 postgresql://backup@db.example/vectors
    vectorpool export 42 ./42.parquet          (also s3://BUCKET/FOLDER)
    vectorpool export 42 chroma+http://chroma.example:8000
    vectorpool export 42 qdrant+http://qdrant.example:6333
    """
    parsed = importlib.import_module("vectorpool.targets.urls").parse(target)
    if parsed.kind == "directory":
        _work("logs", "export", settings, user_id, Path(target), at)
        return
    _work("targets", "export", settings, user_id, parsed, at)


@main.command(name="import")
@click.argument("source", metavar="SOURCE")
@_USER
@click.option("--source-user", metavar="ID", help="The user whose records SOURCE holds, if another than --user.")
@settings_options(STORE)
def import_from(settings: Settings, source: str, user_id: str, source_user: str | None) -> None:
    """Make SOURCE a user's vectorstore: a plain Chroma directory, or a URL as for export. SOURCE is not changed.

    The user must have none yet.

    \b
    vectorpool import ./chroma --user 42
    vectorpool import postgresql://backup@db.example/vectors --user 42
    """
    parsed = importlib.import_module("vectorpool.targets.urls").parse(source)
    if parsed.kind == "directory":
        if source_user is not None:
            raise click.UsageError("--source-user goes with a URL.")
        if not Path(source).is_dir():
            raise click.UsageError(f"Directory {source!r} does not exist.")
        _work("logs", "import_directory", settings, Path(source), user_id)
        return
    _work("targets", "import_from", settings, parsed, user_id, source_user)


for _command in (admin, audit, top):
    main.add_command(_command)
