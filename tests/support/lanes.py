"""Lanes: the marks of a test by its folder, the tests that a run skips, and the network block of the quick lane."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

TESTS = Path(__file__).parents[1]
# Programs that people copy; each has its test beside it.
EXAMPLES = TESTS.parent / "examples"
LAYERS = ("unit", "property", "simulation", "integration", "protocol", "acceptance", "crash", "containers")
# About two minutes on two cores: no network, no object store of its own, no process of the service.
QUICK = frozenset({"unit", "property"})
# Long tests, and tests with requirements outside a checkout. They run only if the expression of -m names their mark.
LEFT_OUT = ("long", "versions", "wheel", "torch", "lancedb", "milvus", "containers")
SERVERS = frozenset({"radosgw_server", "moto_server", "minio_server"})


def layer_of(path: Path) -> str | None:
    """Return the layer that a test file belongs to, which is its folder below ``tests``, or ``examples``."""
    if path.is_relative_to(EXAMPLES):
        return "acceptance"
    folder = path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else ""
    return folder if folder in LAYERS else None


def is_left_out(marks: set[str], expression: str) -> bool:
    """Whether a test with these marks is left out of a run with this expression of -m."""
    named = set(re.findall(r"\w+", expression))
    return any(mark in marks and mark not in named for mark in LEFT_OUT)


def is_unneeded(folder: Path, expression: str) -> bool:
    """Whether a folder has no test for a run of one lane or layer, so that its modules need not be imported."""
    wanted = QUICK if expression == "quick" else {expression}
    unwanted = {TESTS / layer for layer in set(LAYERS) - set(wanted)}
    if "acceptance" not in wanted:
        unwanted.add(EXAMPLES)
    return expression in ("quick", *LAYERS) and folder in unwanted


def sort_into_lanes(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test by its folder, and remove those from ``items`` that the run leaves out."""
    kept, out = [], []
    for item in items:
        layer = layer_of(item.path)
        if layer is not None:
            item.add_marker(layer)
        if layer in QUICK:
            item.add_marker("quick")
            if servers := SERVERS & set(getattr(item, "fixturenames", ())):
                raise pytest.UsageError(f"{item.nodeid} is in the quick lane and asks for {', '.join(sorted(servers))}")
        marks = {mark.name for mark in item.iter_markers()}
        (out if is_left_out(marks, config.getoption("-m")) else kept).append(item)
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = kept


@contextmanager
def without_network() -> Iterator[None]:
    """Refuse network sockets and look-ups of host names; sockets between processes stay."""

    def guarded(method: str) -> Any:
        real = getattr(socket.socket, method)

        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                raise AssertionError(f"a test of the quick lane asks for the network: {method} {address!r}")
            return real(self, address)

        return call

    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        raise AssertionError(f"a test of the quick lane asks for the network: the address of {host!r}")

    with ExitStack() as patches:
        for method in ("connect", "connect_ex", "bind"):
            patches.enter_context(mock.patch.object(socket.socket, method, guarded(method)))
        patches.enter_context(mock.patch.object(socket, "getaddrinfo", look_up))
        yield
