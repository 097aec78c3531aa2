"""The flags of settings, generated from the settings, and grouped by command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from vectorpool.configuration import SECRETS, SettingInfo, describe_settings, load_settings, read_secret
from vectorpool.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])

_ALL: Final = tuple(describe_settings())
_TEXT_PREFIXES: Final = ("embedder", "openai_", "documents_", "chunk_", "extraction_", "max_document_")

EVERYTHING: Final = tuple(row.name for row in _ALL)
STORE: Final = tuple(
    row.name
    for row in _ALL
    if row.name.startswith(("s3_", "store")) or row.name in ("replica_dir", "log_level", "compact_amplification")
)
# What decides which bytes of documents are kept.
_KEEPING: Final = ("retention_s", "max_document_bytes")
KEPT: Final = tuple(row.name for row in _ALL if row.name in STORE or row.name in _KEEPING)
DOCUMENTS: Final = tuple(row.name for row in _ALL if row.name in KEPT or row.name.startswith(_TEXT_PREFIXES))

# What reaches a service, and what a worker of its own needs.
SERVICE: Final = ("service_url", "service_token")
WORKER: Final = tuple(
    row.name
    for row in _ALL
    if row.name in DOCUMENTS or row.name in SERVICE or row.name.startswith(("jobs_", "user_jobs", "max_records"))
)


def read_settings(config: str | None) -> Settings:
    """Return the settings of the environment and of a file, without flags. Raises Misconfigured."""
    return load_settings(config=config)


def settings_options(names: tuple[str, ...]) -> Callable[[Function], Callable[..., Any]]:
    """Return a decorator that gives a command ``--config`` and the flags of ``names``, and calls it with Settings."""
    rows = [row for row in _ALL if row.name in names]

    def decorate(function: Function) -> Callable[..., Any]:
        def with_settings(*, config: str | None, **arguments: Any) -> Any:
            flags = {row.name: arguments.pop(row.name) for row in rows if row.flag}
            for row in rows:
                if row.name in SECRETS and flags.get(row.name) is not None:
                    flags[row.name] = read_secret(flags[row.name], row.flag)
            return function(load_settings(flags, config=config), **arguments)

        with_settings.__doc__ = function.__doc__
        with_settings.__name__ = function.__name__
        # The command's own options come first in its help.
        own = getattr(function, "__click_params__", [])
        command = _with_options(with_settings, rows)
        command.__click_params__ = [*command.__click_params__, *own]  # type: ignore[attr-defined]
        return command

    return decorate


def _with_options(command: Callable[..., Any], rows: list[SettingInfo]) -> Callable[..., Any]:
    for row in reversed(rows):
        if row.flag:
            command = _option(row)(command)
    return click.option("--config", metavar="FILE", help="A TOML file with settings.")(command)


def _option(row: SettingInfo) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    if row.default is None or row.name in SECRETS:
        text = f"{row.description}."
    else:
        shown = str(row.default).lower() if isinstance(row.default, bool) else row.default
        text = f"{row.description}. [default: {shown}]"
    if row.type == "true or false":
        return click.option(f"{row.flag}/--no-{row.flag[2:]}", row.name, default=None, help=text)
    metavar = {"integer": "N", "number": "X"}.get(row.type, "TEXT")
    if row.name in SECRETS:
        metavar, text = "FILE", f"A file that holds it: {text}"
    if " or " in row.type:
        metavar = "|".join(row.type.split(" or "))
    return click.option(row.flag, row.name, default=None, metavar=metavar, help=text)
