"""The calculator of settings: what it prints are settings, and they fit into what an instance has."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vectorpool.configuration import load_settings

PATH = Path(__file__).parents[2] / "deploy" / "sizing.py"
MIB = 1024**2


@pytest.fixture(scope="module")
def sizing() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("sizing", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sizing"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("memory_gib", [2, 4, 16])
@pytest.mark.parametrize("disk_gib", [0, 20])
@pytest.mark.parametrize("store_mib", [0.5, 5, 50])
def test_the_settings_fit(sizing: ModuleType, memory_gib: float, disk_gib: float, store_mib: float) -> None:
    """The parts are no more than the memory, the files no more than the disk, and the service takes the settings."""
    inputs = sizing.Inputs(memory_gib, disk_gib, 2, store_mib, 1000, 2)
    found, parts = sizing.settings_of(inputs)
    settings = load_settings(environ={name: str(value) for name, value in found.items()})
    files = settings.shards * (settings.open_bytes + settings.warm_bytes) / MIB
    # Two vectorstores in each shard are the least; huge ones may not fit even so.
    assert sum(parts.values()) <= memory_gib * 1024 + 1 or settings.open_slots == 2
    if disk_gib:
        assert files <= disk_gib * 1024 and parts["files of /tmp"] == 0
    else:
        assert settings.memory_limit_bytes is not None
        assert files + settings.memory_limit_bytes / MIB <= memory_gib * 1024 + 1


def test_too_little_memory_is_said(sizing: ModuleType) -> None:
    """It gives no settings that cannot hold."""
    with pytest.raises(SystemExit, match="too little"):
        sizing.settings_of(sizing.Inputs(0.5, 0, 2, 1, 1000, 2))


def test_it_prints_an_env_file(sizing: ModuleType) -> None:
    """Every line is a setting or a remark."""
    ended = subprocess.run([sys.executable, str(PATH)], capture_output=True, text=True, check=True)
    lines = [line for line in ended.stdout.splitlines() if line and not line.startswith("#")]
    assert load_settings(environ=dict(line.split("=") for line in lines)).shards == 2
