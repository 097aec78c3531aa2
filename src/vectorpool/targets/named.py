"""Targets that an operator named, so that a user can name one without a URL.

A URL reaches networks and file systems, and holds credentials. So users, jobs and receipts know a target by its name
alone, and only processes with the settings know more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vectorpool.errors import InvalidTarget, Misconfigured, UnknownTarget
from vectorpool.settings import Settings
from vectorpool.targets.urls import Target, parse

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MOST_TARGETS: Final = 32


def named_targets(settings: Settings) -> dict[str, Target]:
    """Return the targets of the setting ``targets`` by name. Raises Misconfigured, which shows no URL."""
    return parse_named(settings.targets, "targets")


def scheduled_targets(settings: Settings) -> dict[str, Target]:
    """Return the targets of the setting ``export_to``. Raises Misconfigured."""
    known, found = named_targets(settings), dict[str, Target]()
    for name in settings.export_to.split():
        if name not in known:
            raise Misconfigured(
                "export_to names a target that targets does not have. Write names of VECTORPOOL_TARGETS, separated by "
                "spaces; the URL belongs there."
            )
        found[name] = known[name]
    return found


def parse_named(text: str, setting: str) -> dict[str, Target]:
    """Return the targets of a text ``NAME=URL NAME=URL``, each of which keeps several users apart."""
    found: dict[str, Target] = {}
    for number, item in enumerate(text.split(), 1):
        name, equals, url = item.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise Misconfigured(
                f"Item {number} of {setting} is not NAME=URL. A name is 1 to 64 of [a-z0-9._-]; a space in a URL is "
                "written %20."
            )
        if name in found:
            raise Misconfigured(f"{setting} names two targets {name}. Give each a name of its own.")
        try:
            target = parse(url)
        except InvalidTarget as error:
            raise Misconfigured(f"The target {name} of {setting}: {error.detail}") from None
        _check_users_are_apart(name, target, setting)
        found[name] = target
    if len(found) > MOST_TARGETS:
        raise Misconfigured(f"{setting} names {len(found)} targets, and {MOST_TARGETS} may be. Leave some out.")
    return found


def _check_users_are_apart(name: str, target: Target, setting: str) -> None:
    """Raise Misconfigured for a target that holds one user: the second one would replace the first."""
    holds_one = target.kind == "directory" or "tenant" in target.parameters
    if target.kind == "parquet" and ("://" not in target.url or target.parts.path.endswith(".parquet")):
        holds_one = True
    if holds_one:
        raise Misconfigured(
            f"The target {name} of {setting} holds one user, and all users would go there. Name a database, a server "
            "without tenant=, or a folder (parquet:///FOLDER, s3://BUCKET/FOLDER)."
        )


def pick(targets: Mapping[str, Target], name: str) -> Target:
    """Return the target of a name. Raises UnknownTarget."""
    target = targets.get(name)
    if target is None:
        known = ", ".join(sorted(targets)) or "none"
        raise UnknownTarget(f"The operator named no such target. Name one of those that are there: {known}.")
    return target
