"""``vectorpool admin``, ``audit`` and ``top``: the names and parameters of operators' commands.

Each works on a running service (``--service``) or, where no instance is needed, straight on a bucket (``--store``). The
work is in ``cli.operators`` and the modules that it uses, which are imported when a command runs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from vectorpool.cli.options import STORE, settings_options
from vectorpool.platform.privacy import keep_private
from vectorpool.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])

_USER = click.argument("user_id", metavar="USER")
_SERVICE: Final = (
    click.option(
        "--service",
        metavar="URL",
        envvar="VECTORPOOL_SERVICE",
        help="A running service, such as http://127.0.0.1:8000.  [env: VECTORPOOL_SERVICE]",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="A file that holds the token for --service; else VECTORPOOL_TOKEN, if it is set.",
    ),
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, for programs.")


def _with_service(function: Function) -> Function:
    for option in reversed((*_SERVICE, _JSON)):
        function = option(function)
    return function


# The modules of the functions that are not in ``operators``.
_MODULES: Final = {
    **dict.fromkeys(("compact", "scrub", "deletion", "delete"), "logs_of_users"),
    **dict.fromkeys(("export_user", "import_user"), "archives"),
    **dict.fromkeys(("health", "recover", "notifications", "acknowledge"), "care"),
    "limits": "limits_of_users",
}


def _work(function: str, *arguments: Any, **options: Any) -> None:
    # Also an export: an archive holds what is somebody's own.
    keep_private()
    module = importlib.import_module(f"vectorpool.cli.{_MODULES.get(function, 'operators')}")
    exit_code = getattr(module, function)(*arguments, **options)
    if exit_code:
        sys.exit(exit_code)


class _Ordered(click.Group):
    """Lists commands in the order of their declaration."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Ordered, name="admin")
def admin() -> None:
    """Operate a running service (--service URL), or a bucket without one (--store).

    The token for a service is in VECTORPOOL_TOKEN or in a file (--token-file), never in a flag. Without --service, the
    commands that need no instance work on the store alone: users, compact, scrub, deletion, delete, export, import.

    \b
    vectorpool admin pool --service http://127.0.0.1:8000
    vectorpool admin users --store s3://bucket/prefix --json
    """


def _command(name: str) -> Callable[[Function], Any]:
    """Return a decorator that makes a command of the group, with the options of the service and of the store."""

    def decorate(function: Function) -> Any:
        return admin.command(name=name)(settings_options(STORE)(_with_service(function)))

    return decorate


@_command("users")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Most users to list; all if left out.")
def users(settings: Settings, limit: int | None, **place: Any) -> None:
    """List users with their newest commit and size; deleted ones say so."""
    _work("users", settings, limit, **place)


@_command("pool")
def pool(settings: Settings, **place: Any) -> None:
    """Show every slot of a service's pool, and its bounds."""
    _work("pool", settings, **place)


@_command("shards")
def shards(settings: Settings, **place: Any) -> None:
    """Show the shards of a service."""
    _work("shards", settings, **place)


@_command("restart")
@click.argument("shard", type=click.IntRange(0))
@click.option("--force", is_flag=True, help="Also if acknowledged writes are lost (write-back only).")
def restart(settings: Settings, shard: int, force: bool, **place: Any) -> None:
    """Drain a shard of a service, end its process, and start it again.

    \b
    vectorpool admin restart 1 --service http://127.0.0.1:8000
    """
    _work("restart", settings, shard, force, **place)


@_command("tasks")
def tasks(settings: Settings, **place: Any) -> None:
    """Show the background tasks of a service: state, failures, next run."""
    _work("tasks", settings, **place)


@_command("ready")
def ready(settings: Settings, **place: Any) -> None:
    """Tell whether a service takes work, and why not. Exit code 1 if it does not."""
    _work("ready", settings, **place)


@_command("hydrate")
@_USER
def hydrate(settings: Settings, user_id: str, **place: Any) -> None:
    """Open a user's vectorstore on a service."""
    _work("residency", settings, "POST", "hydrate", user_id, **place)


@_command("flush")
@_USER
def flush(settings: Settings, user_id: str, **place: Any) -> None:
    """Commit what a service acknowledged for a user and did not commit yet (write-back)."""
    _work("residency", settings, "POST", "flush", user_id, **place)


@_command("evict")
@_USER
def evict(settings: Settings, user_id: str, **place: Any) -> None:
    """Commit and close a user's vectorstore on a service."""
    _work("residency", settings, "POST", "evict", user_id, **place)


@_command("keep-open")
@_USER
@click.option(
    "--for",
    "for_s",
    type=click.FloatRange(0, 604_800, min_open=True),
    default=3600.0,
    show_default=True,
    metavar="S",
    help="Seconds.",
)
@click.option("--end", is_flag=True, help="End it instead.")
def keep_open(settings: Settings, user_id: str, for_s: float, end: bool, **place: Any) -> None:
    """Keep a user's vectorstore open on a service for a time: nothing but an eviction on demand closes it."""
    if end:
        _work("residency", settings, "DELETE", "keep-open", user_id, **place)
    else:
        _work("residency", settings, "PUT", "keep-open", user_id, {"for_s": for_s}, **place)


@_command("compact")
@_USER
def compact(settings: Settings, user_id: str, **place: Any) -> None:
    """Merge a user's log, as far as that is due."""
    _work("compact", settings, user_id, **place)


@_command("scrub")
@_USER
def scrub(settings: Settings, user_id: str, **place: Any) -> None:
    """Verify a user's log. Exit code 1 if it is damaged."""
    _work("scrub", settings, user_id, **place)


@_command("deletion")
@_USER
def deletion(settings: Settings, user_id: str, **place: Any) -> None:
    """Show the receipt of a user's last deletion."""
    _work("deletion", settings, user_id, **place)


@_command("limits")
@_USER
@click.argument("limits", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--delete", "is_delete", is_flag=True, help="Delete what is stored: the defaults are in force.")
def limits(settings: Settings, user_id: str, limits: tuple[str, ...], is_delete: bool, **place: Any) -> None:
    """Show the limits of a user, or store those that are given in the place of all that were stored.

    NAME= without a value takes a limit away. Straight on a store, the defaults shown are those of this command's
    settings. Instances know a change within a minute.

    \b
    vectorpool admin limits 42 --service http://127.0.0.1:8000
    vectorpool admin limits 42 records=100000 requests_per_s=50 burst= --store s3://bucket/prefix
    """
    if limits and is_delete:
        raise click.UsageError("Give limits or --delete, not both.")
    _work("limits", settings, user_id, limits, is_delete, **place)


@_command("delete")
@_USER
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(settings: Settings, user_id: str, yes: bool, **place: Any) -> None:
    """Delete all that is ours of a user: vectorstore, backups, source documents. Print the receipt.

    What other programs keep beside it stays, and is listed. Exit code 1 if it is not complete: run it again.
    """
    if not yes:
        click.confirm(f"Delete the vectorstore, the backups and the documents of user {user_id}?", abort=True, err=True)
    _work("delete", settings, user_id, **place)


@_command("export")
@_USER
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--at", type=click.IntRange(1), metavar="COMMIT", help="As of this commit; the newest if left out.")
def export(settings: Settings, user_id: str, file: Path, at: int | None, **place: Any) -> None:
    """Write a user's vectorstore to FILE (- is stdout), as a tar of a plain Chroma directory.

    \b
    vectorpool admin export 42 42.tar --service http://127.0.0.1:8000
    """
    _work("export_user", settings, user_id, file, at, **place)


@_command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@_USER
def import_file(settings: Settings, file: Path, user_id: str, **place: Any) -> None:
    """Make FILE (- is stdin), a tar of a plain Chroma directory, the vectorstore of a user who has none.

    \b
    tar -C ./chroma -c . | vectorpool admin import - 42 --service http://127.0.0.1:8000
    """
    _work("import_user", settings, file, user_id, **place)


@_command("health")
@click.argument("user_id", metavar="[USER]", required=False)
@click.option("--check", is_flag=True, help="Check USER now, instead of showing the last check.")
def health(settings: Settings, user_id: str | None, check: bool, **place: Any) -> None:
    """Show the health of USER, or that of all users that a service checks, and its canary.

    Exit code 1 if something is not well.
    """
    if check and user_id is None:
        raise click.UsageError("--check needs a USER.")
    _work("health", settings, user_id, check, **place)


@_command("recover")
@_USER
@click.option("--dry-run", is_flag=True, help="Only show the sources, and what each would lose.")
@click.option(
    "--into",
    type=click.Choice(["same", "new"]),
    help="Collections come back under their own names, or beside them as NAME-recovered-COMMIT.  [default: as the "
    "service is set]",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def recover(settings: Settings, user_id: str, dry_run: bool, into: str | None, yes: bool, **place: Any) -> None:
    """Recover a user's damaged vectorstore from the best source, as a new commit.

    \b
    vectorpool admin recover 42 --dry-run --service http://127.0.0.1:8000
    """
    if not (dry_run or yes):
        click.confirm(f"Recover the vectorstore of user {user_id} from the best source?", abort=True, err=True)
    _work("recover", settings, user_id, dry_run, into, **place)


@_command("notifications")
@click.option("--state", type=click.Choice(["open", "acknowledged", "settled"]), help="Only those in this state.")
def notifications(settings: Settings, state: str | None, **place: Any) -> None:
    """List what a service tells operators: damage, recoveries, quotas, the canary. With --json, a line for each."""
    _work("notifications", settings, state, **place)


@_command("acknowledge")
@click.argument("notification", metavar="ID")
def acknowledge(settings: Settings, notification: str, **place: Any) -> None:
    """Note that a notification was seen."""
    _work("acknowledge", settings, notification, **place)


# --- Beside the group --------------------------------------------------------------------------------


@click.command(name="audit")
@click.option("--since", metavar="DAY", help="From this day on, such as 2026-11-21 (UTC).  [default: today]")
@click.option("--until", metavar="DAY", help="Up to this day.")
@click.option("--user", "of_user", metavar="ID", help="Only about this user.")
@click.option("--action", metavar="NAME", help="Only of this action, such as delete-all.")
@click.option("--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@settings_options(STORE)
@_with_service
def audit(
    settings: Settings,
    since: str | None,
    until: str | None,
    of_user: str | None,
    action: str | None,
    follow: bool,
    **place: Any,
) -> None:
    """Show what operators, deletions, restores, forks and changes of tokens and limits did, oldest first.

    With --json, one line an entry.

    \b
    vectorpool audit --store s3://bucket/prefix --since 2026-11-01 --user 42
    vectorpool audit --service http://127.0.0.1:8000 --follow
    """
    if follow and until:
        raise click.UsageError("--follow has no end; leave --until out.")
    keep_private()
    work = importlib.import_module("vectorpool.cli.audit_log")
    sys.exit(work.audit(settings, since, until, of_user, action, follow, **place))


@click.command(name="top")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.5, 60),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print one frame and leave, for scripts.")
@click.option(
    "--users", "users_shown", type=click.IntRange(0, 100), default=8, show_default=True, help="Rows of users."
)
@_SERVICE[0]
@_SERVICE[1]
def top(every_s: float, once: bool, users_shown: int, service: str | None, token_file: Path | None) -> None:
    """Watch a running service: shards, pool, rates, times to answer, store, the busiest users by a hash.

    Ctrl-C ends it. Without a terminal, or with --once, one frame is printed, without colours if NO_COLOR is set.

    \b
    vectorpool top --service http://127.0.0.1:8000
    """
    work = importlib.import_module("vectorpool.cli.top")
    sys.exit(work.top(service, token_file, every_s, once, users_shown))
