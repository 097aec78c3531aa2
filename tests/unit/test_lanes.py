"""The lanes: what a run leaves out, and that the quick lane touches no network."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.support.lanes import EXAMPLES, LAYERS, LEFT_OUT, QUICK, TESTS, is_left_out, is_unneeded, layer_of


@pytest.mark.parametrize("mark", LEFT_OUT)
def test_a_mark_that_is_left_out_runs_where_it_is_named(mark: str) -> None:
    """A run leaves such tests out, also one of a layer, unless its expression names the mark."""
    assert is_left_out({"crash", mark}, "")
    assert is_left_out({"crash", mark}, "crash")
    assert is_left_out({"crash", mark}, "not quick")
    assert not is_left_out({"crash", mark}, mark)
    assert not is_left_out({"crash", mark}, f"crash and {mark}")
    assert not is_left_out({"crash"}, "")


def test_every_mark_must_be_named() -> None:
    """A test with two such marks runs only where both are named."""
    assert is_left_out({"long", "containers"}, "long")
    assert not is_left_out({"long", "containers"}, "long and containers")


def test_a_lane_imports_no_other_folder() -> None:
    """A run of one lane or layer alone skips the folders of the others; every other expression looks at all."""
    folders = {layer: TESTS / layer for layer in LAYERS}
    assert {layer for layer, folder in folders.items() if not is_unneeded(folder, "quick")} == QUICK
    assert {layer for layer, folder in folders.items() if not is_unneeded(folder, "crash")} == {"crash"}
    assert not any(is_unneeded(folder, expression) for folder in folders.values() for expression in ("", "not quick"))
    assert is_unneeded(EXAMPLES, "quick") and is_unneeded(EXAMPLES, "crash")
    assert not is_unneeded(EXAMPLES, "acceptance") and not is_unneeded(EXAMPLES, "")
    assert layer_of(EXAMPLES / "chat" / "test_chat_example.py") == "acceptance"
    assert not is_unneeded(TESTS / "support", "quick") and not is_unneeded(TESTS / "unit" / "crash", "quick")


def test_every_test_has_a_layer() -> None:
    """Each test file lies in the folder of a layer."""
    files = sorted(TESTS.rglob("test_*.py"))
    assert files and [path for path in files if layer_of(path) is None] == []
    assert layer_of(Path("/elsewhere/unit/test_x.py")) is None
    assert {layer_of(path) for path in files} == set(LAYERS)


def test_this_test_is_in_the_quick_lane(request: pytest.FixtureRequest) -> None:
    """The folder alone makes a test a unit test of the quick lane."""
    assert {"unit", "quick"} <= {mark.name for mark in request.node.iter_markers()}


@pytest.mark.parametrize("method", ["connect", "connect_ex", "bind"])
def test_the_quick_lane_has_no_network(method: str) -> None:
    """A socket of a network cannot be used here, whatever its address."""
    with socket.socket() as one, pytest.raises(AssertionError, match=f"network: {method}"):
        getattr(one, method)(("127.0.0.1", 9))


async def test_the_quick_lane_looks_no_name_up() -> None:
    """Neither can a name be looked up, nor a connection be made by an event loop."""
    with pytest.raises(AssertionError, match="the address of"):
        socket.getaddrinfo("localhost", 80)
    with pytest.raises(AssertionError, match="network"):
        await asyncio.open_connection("127.0.0.1", 9)


def test_sockets_between_processes_stay(tmp_path: Path) -> None:
    """A socket in the file system works as it does."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen(1)
        client.connect(str(tmp_path / "s"))
        server.accept()[0].close()
