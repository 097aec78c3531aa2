"""The pages of ``docs/reference``, made from the code: ``python -m tests.reference --write``.

Each page is a short introduction and what the code says of itself: the OpenAPI document, the settings, the tree of
errors, the command line. A test compares the pages with what this module makes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from vectorpool import errors
from vectorpool.app import create_app
from vectorpool.cli import main as command_line
from vectorpool.configuration import settings_table
from vectorpool.errors import (
    TryAgain,
    VectorpoolError,
    base,
    configuration,
    conflicts,
    damage,
    missing,
    requests,
    retries,
    targets,
)
from vectorpool.settings import Settings
from vectorpool.telemetry.families import table as metrics_table

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
METHODS = ("get", "head", "post", "put", "patch", "delete")

_INDEX = """# Reference

| page | content |
|---|---|
| [http.md](http.md) | every route of the native API and of Chroma's protocol |
| [settings.md](settings.md) | every setting, as flag, variable and line of a file |
| [errors.md](errors.md) | every error code: its status, what it means, and what to do |
| [cli.md](cli.md) | every command |
| [metrics.md](metrics.md) | every figure of `/metrics` |

`uv run python -m tests.reference --write` makes these pages from the code. A running instance serves the reference of
its own version at `/schema`, with an example of every body.
"""

_HTTP = """# HTTP routes

`/schema` of a running instance is the complete reference with an example of every body; `/schema/openapi.json` is for
programs. An id is one path segment of 1 to 128 bytes of printable text. Every answer about a vectorstore carries
`X-Vectorpool-Commit`, the commit that it saw, and every response carries `X-Request-Id`. Keep `/admin` from the public.
"""

_SETTINGS = """# Settings

Each is a flag, an environment variable, or a line of a TOML file (`--config FILE` or `VECTORPOOL_CONFIG`; names as in
the flag, without dashes in front), in this order. AWS's own variables work as usual.
"""

_ERRORS = """# Errors

An error is an [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem. Its `type` is
`https://vectorpool.dev/problems/` and the code below, which is stable; `detail` says what happened and what to do.
429 and 503 carry `Retry-After`. A refused request has changed nothing. After `outcome-unknown`, look before you send
the same write again, or send one that may be repeated (upsert, delete by ids). `misconfigured` and `store-refused`
occur at the start, as a sentence and exit code 2. Below `/api` an error is Chroma's JSON.
"""

_CLI = """# Command line

Answers go to stdout, progress to stderr. Exit code 1: it did not work; 2: change the configuration or the arguments.
`--help` of each command has its flags and examples. Settings are flags of `serve`, `ingest` and `query` too, see
[settings.md](settings.md).
"""


_METRICS = """# Metrics

`GET /metrics` answers in the text format of Prometheus, or in OpenMetrics for those who accept it. It needs a token
that may use `/admin`; [operations.md](../operations.md#see-what-it-does) says how to scrape, and what to alert on.
Counters of an instance never go back while it runs, also if a shard is started again. A histogram has buckets from
0.1 ms to 30 s, unless its row is about something slower.
"""


def pages() -> dict[str, str]:
    """Return the text of every page by its file name."""
    return {
        "README.md": _INDEX,
        "http.md": f"{_HTTP}\n{_routes()}",
        "settings.md": f"{_SETTINGS}\n{settings_table()}\n",
        "errors.md": f"{_ERRORS}\n{problems_page()}\n",
        "metrics.md": f"{_METRICS}\n{metrics_table()}\n",
        "cli.md": f"{_CLI}\n{_commands()}",
    }


# --- Routes ------------------------------------------------------------------------------------------


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of the application."""
    document: dict[str, Any] = create_app(Settings()).app.openapi_schema.to_schema()
    return document


def _routes() -> str:
    groups: dict[str, list[str]] = {}
    for path, item in sorted(openapi()["paths"].items()):
        for method in METHODS:
            if operation := item.get(method):
                tag = "Chroma's protocol" if path.startswith("/api/") else operation["tags"][0].capitalize()
                what = _sentence(operation.get("description") or operation["summary"])
                groups.setdefault(tag, []).append(f"| `{method.upper()} {path}` | {what} |")
    own = sorted(tag for tag in groups if tag != "Chroma's protocol")
    parts = [
        "\n".join([f"## {tag}", "", "| route | what it does |", "|---|---|", *groups[tag]])
        for tag in [*own, "Chroma's protocol"]
    ]
    return "\n\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    """Return the first sentence of a description, fit for a table."""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) (?=[A-Z])", first)[0].replace("|", "\\|")


# --- Errors ------------------------------------------------------------------------------------------

_GROUPS = {
    "On our side": [base],
    "Change the request": [requests],
    "Look for what is there": [missing],
    "Look at the state again": [conflicts],
    "Send it again later": [retries],
    "Call the operator": [damage],
    "Look at the other system": [targets],
    "Change the configuration": [configuration],
}


def problems() -> dict[str, list[type[VectorpoolError]]]:
    """Return the classes of problems by what a caller can do, and in each group as their module defines them."""
    groups = {
        title: [
            value
            for module in modules
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, VectorpoolError) and value.__module__ == module.__name__
        ]
        for title, modules in _GROUPS.items()
    }
    found = {cls.__name__ for classes in groups.values() for cls in classes}
    assert found == set(errors.__all__) - {"ErrorWire", "UNDECODABLE"}
    groups["On our side"].remove(VectorpoolError)
    return groups


def meaning_and_remedy(cls: type[VectorpoolError]) -> tuple[str, str]:
    """Return what an error means, its docstring's first paragraph, and what to do: the paragraph of ``To do:``."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in (cls.__doc__ or "").split("\n\n")]
    remedies = [text.removeprefix("To do: ") for text in paragraphs if text.startswith("To do: ")]
    return paragraphs[0], remedies[0][0].upper() + remedies[0][1:] if remedies else ""


def problems_page() -> str:
    """Return the table of problems, and a paragraph for each that says what to do."""
    rows = ["| code | status | try again |", "|---|---|---|"]
    parts = []
    for title, classes in problems().items():
        parts.append(f"## {title}")
        for cls in classes:
            again = "yes" if issubclass(cls, TryAgain) else ""
            rows.append(f"| [`{cls.code}`](#{cls.code}) | {cls.status} | {again} |")
            meaning, remedy = meaning_and_remedy(cls)
            parts.append(f"### `{cls.code}`\n\n{meaning}\n\n**What to do:** {remedy}")
    return "\n".join(rows) + "\n\n" + "\n\n".join(parts)


# --- Command line ------------------------------------------------------------------------------------


def _commands() -> str:
    rows = ["| command | what it does |", "|---|---|"]
    for name, command in _click_commands():
        arguments = " ".join(
            piece
            for parameter in command.params
            if isinstance(parameter, click.Argument)
            for piece in [parameter.make_metavar(click.Context(command))]
        )
        rows.append(f"| `vectorpool {name}{' ' + arguments if arguments else ''}` | {_sentence(command.help or '')} |")
    return "\n".join(rows) + "\n"


def _click_commands() -> Iterator[tuple[str, click.Command]]:
    assert isinstance(command_line, click.Group)
    for name, command in command_line.commands.items():
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", each) for inner, each in command.commands.items())


def main() -> None:
    """Write the pages, or print the names of those that differ."""
    for name, text in pages().items():
        path = REFERENCE / name
        if "--write" in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{name} differs from the code")


if __name__ == "__main__":
    main()
