"""What the site does to the pages of docs/, which are written for the repository: links that lead out of docs/."""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[1]
# A link or a picture: what is before its target, the target, an anchor.
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?)(?=\))")
# A warning of this logger ends a strict build.
log = logging.getLogger("mkdocs.hooks.site")


def on_config(config: Any) -> Any:
    """Add every page of a decision to the navigation, in the order of their numbers."""
    folder = ROOT / "docs" / "decisions"
    pages = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    section = next(entry["Decisions"] for entry in config["nav"] if "Decisions" in entry)
    section += [f"decisions/{page.name}" for page in pages]
    return config


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Return the page with links to files outside docs/ made links to the repository."""

    def moved(found: re.Match[str]) -> str:
        before, target, anchor = found.groups()
        place = (ROOT / "docs" / PurePosixPath(page.file.src_uri).parent / target).resolve()
        if place.is_relative_to(ROOT / "docs"):
            return found[0]
        if not place.exists():
            log.warning("%s links to %s, which is not in the repository", page.file.src_uri, target)
        kind = "tree" if place.is_dir() else "blob"
        return f"{before}{config['repo_url']}/{kind}/main/{place.relative_to(ROOT).as_posix()}{anchor}"

    return LINK.sub(moved, markdown)
