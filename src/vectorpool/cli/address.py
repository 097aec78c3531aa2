"""Where the service listens: the URL that it announces, and the file that tells it to a health check."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vectorpool.errors import Misconfigured


def url_of(listener: socket.socket) -> str:
    """Return the URL of a bound socket; one that is bound to every address is reached on the loopback."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


@contextmanager
def told(address_file: str | None, listener: socket.socket) -> Iterator[None]:
    """Keep the URL in the file, if one is named, until the end; raise Misconfigured if it cannot be written."""
    if not address_file:
        yield
        return
    path = Path(address_file)
    written = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(url_of(listener) + "\n")
        written.replace(path)
    except OSError as error:
        raise Misconfigured(
            f"address_file = {path} cannot be written: {error.strerror}. Name a file where the service may write."
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
