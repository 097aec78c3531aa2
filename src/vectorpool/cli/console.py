"""Output of the commands: answers on stdout, which can be piped, and progress on stderr."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

out: Final = Console(highlight=False, soft_wrap=True)
err: Final = Console(stderr=True, highlight=False)


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run a command to its end and return its exit code."""
    return asyncio.run(work)


def progress_bar() -> Progress:
    """Return a bar for work that can be counted; its tasks have a ``note``."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=err,
    )


def spinner(text: str) -> Progress:
    """Return a display for work that cannot be counted."""
    progress = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=err)
    progress.add_task(text, total=None)
    return progress
