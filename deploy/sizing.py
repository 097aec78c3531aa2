"""Settings of an instance from its memory and disk and from your users: ``python deploy/sizing.py --help``.

The figures of memory are measured (docs/sizing.md says how, and on what); the rest is addition. It prints lines of an
env file, and what each part of the memory is for. It needs Python alone.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

MIB = 1024**2
GIB = 1024**3

# In MiB, by `python -m tests.bench memory` and tests/containers/test_memory.py: a front with the default model that has
# ingested, its worker of jobs with a model of its own, and a shard without users.
FRONT_MIB = 250
WORKER_MIB = 300
SHARD_MIB = 35
# An open vectorstore that Chroma loaded takes so much beside its files, and three times their size.
SLOT_MIB = 1.5
SLOT_FILES = 3.0
# Descriptors of a slot, at most.
SLOT_DESCRIPTORS = 17
# Above this part of its limit an instance opens no further vectorstore (memory_high_percent).
HIGH = 0.85


@dataclass(frozen=True)
class Inputs:
    """What an instance has, and what its users have. ``disk_gib`` 0: /tmp is memory, as on Cloud Run."""

    memory_gib: float
    disk_gib: float
    shards: int
    store_mib: float
    active_users: int
    instances: int


def settings_of(inputs: Inputs) -> tuple[dict[str, int], dict[str, float]]:
    """Return settings by variable, and the parts of the memory in MiB. Raises SystemExit if they do not fit."""
    memory = inputs.memory_gib * 1024
    fixed = FRONT_MIB + WORKER_MIB + SHARD_MIB * inputs.shards
    extraction = 256 if memory <= 2048 else 512
    bodies = max(memory / 16, 64)
    rest = memory * HIGH - fixed - extraction - bodies
    if rest < 200:
        raise SystemExit(
            f"{inputs.memory_gib:g} GiB are too little: {fixed:.0f} MiB are taken by {inputs.shards} shards."
        )
    in_memory = inputs.disk_gib == 0
    # Memory is shared between files (a third of it for the warm ones), open vectorstores and their rows.
    files = rest * 0.4 if in_memory else inputs.disk_gib * 1024 * 0.8
    own = rest - (files if in_memory else 0)
    rows = own * 0.2
    slot = SLOT_MIB + SLOT_FILES * inputs.store_mib
    slots = int((own - rows) / slot / inputs.shards)
    # More slots than vectorstores fit into the files would never be used.
    slots = max(min(slots, math.ceil(files * 2 / 3 / inputs.shards / inputs.store_mib)), 2)
    settings = {
        "VECTORPOOL_SHARDS": inputs.shards,
        "VECTORPOOL_OPEN_SLOTS": slots,
        "VECTORPOOL_OPEN_BYTES": int(files * 2 / 3 / inputs.shards * MIB),
        "VECTORPOOL_WARM_BYTES": int(files / 3 / inputs.shards * MIB),
        "VECTORPOOL_INDEX_ROWS_BYTES": int(rows / inputs.shards * MIB),
        "VECTORPOOL_MAX_BODY_BYTES_UNDER_WAY": int(bodies * MIB),
        "VECTORPOOL_MEMORY_LIMIT_BYTES": int((memory - (files if in_memory else 0)) * MIB),
        "VECTORPOOL_EXTRACTION_PROCESSES": 1 if memory <= 4096 else 2,
        "VECTORPOOL_EXTRACTION_MEMORY_BYTES": extraction * MIB,
    }
    parts = {
        "front, with the model": FRONT_MIB,
        "worker of jobs": WORKER_MIB,
        "shards without users": SHARD_MIB * inputs.shards,
        "one document that is read": extraction,
        "bodies under way": bodies,
        "open vectorstores": slots * slot * inputs.shards,
        "rows for exact queries": rows,
        "files of /tmp": files if in_memory else 0,
        "kept free": memory * (1 - HIGH),
    }
    return settings, parts


def main() -> None:
    """Print the settings and what they are for."""
    parser = argparse.ArgumentParser(prog="python deploy/sizing.py", description=__doc__)
    parser.add_argument("--memory-gib", type=float, default=2, help="memory of an instance (default 2)")
    parser.add_argument("--disk-gib", type=float, default=0, help="disk below /tmp; 0: /tmp is memory (default 0)")
    parser.add_argument("--shards", type=int, default=2, help="one for each CPU (default 2)")
    parser.add_argument(
        "--store-mib", type=float, default=1.7, help="files of a vectorstore (default 1.7, 500 records)"
    )
    parser.add_argument("--active-users", type=int, default=1000, help="users within idle_timeout_s (default 1000)")
    parser.add_argument("--instances", type=int, default=2, help="instances (default 2)")
    inputs = Inputs(**vars(parser.parse_args()))
    settings, parts = settings_of(inputs)
    for name, value in settings.items():
        print(f"{name}={value}")
    print(f"\n# memory of an instance, {inputs.memory_gib * 1024:.0f} MiB")
    for name, mib in parts.items():
        print(f"# {name:28} {mib:7.0f} MiB")
    slots = settings["VECTORPOOL_OPEN_SLOTS"] * inputs.shards
    fit = min(slots, int(settings["VECTORPOOL_OPEN_BYTES"] / MIB / inputs.store_mib) * inputs.shards)
    print(f"# open at once: {fit} of {math.ceil(inputs.active_users / inputs.instances)} active users of an instance")
    needed = math.ceil(inputs.active_users / max(fit, 1))
    print(f"# so that every active user is open: {max(needed, 1)} instances")
    print(f"# file descriptors: at least {slots * SLOT_DESCRIPTORS + 1000}")


if __name__ == "__main__":
    main()
