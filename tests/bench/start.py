"""Start: from the process's start to the first 200 of /health/ready, and to the first answer to a cold user's query.

Every turn has an empty replica directory, so the first answer hydrates its 500 records. CPU time is that of the front
and its shards up to the first 200, read from the kernel: unlike the wall time, it does not depend on other users of the
cores. A first turn, which is not counted, writes the bytecode, as the image has it; an installation without bytecode
is a line of its own. Excluded: the time that the machine needs to read programs and libraries from its disk, which
the first turn leaves in memory.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

from tests.bench.ground import COLLECTION, Line, Place, check_first, load, near
from tests.support.service import START_S, Service, environment
from tests.support.store import free_port

COUNT = 500
USER = f"cold-{COUNT}"
TARGET_S = 2.5
# The imports of the front and of a shard before they serve. Loading the model is no import, and not included.
IMPORTS = {
    "the front": (
        "import vectorpool.cli.server, vectorpool.app, vectorpool.embedding.onnx\n"
        "from vectorpool.settings import Settings\n"
        "vectorpool.app.create_app(Settings())"
    ),
    "a shard": "import vectorpool.shard.process",
}


class Start(msgspec.Struct):
    """The measurements of one turn, in seconds: wall time since the process's start, CPU time until it was ready."""

    ready_s: float
    answered_s: float
    answer_s: float
    front_cpu_s: float
    shards_cpu_s: float


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shards_of(front: int) -> list[int]:
    """Return the process ids of a front's shards; the worker of jobs is its child too."""
    # A front's children belong to the thread that made them.
    tasks = Path(f"/proc/{front}/task").glob("*/children")
    children = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in children if b"vectorpool.shard.process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _asked(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _wait_until_ready(port: int) -> None:
    deadline = time.perf_counter() + START_S
    while time.perf_counter() < deadline:
        try:
            if _asked(port, "GET", "/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.005)
    raise AssertionError(f"it was not ready within {START_S} s")


async def _turn(place: Place, shards: int, env: dict[str, str], number: int) -> Start:
    root = place.scratch / "started"
    root.mkdir()
    port = free_port()
    service = Service(root, "--shards", str(shards), "--port", str(port), store=place.store, env=env)
    began = time.perf_counter()
    starting = asyncio.create_task(asyncio.to_thread(service.start))
    try:
        await asyncio.to_thread(_wait_until_ready, port)
        ready_s = time.perf_counter() - began
        front, children = service.pid, shards_of(service.pid)
        assert len(children) == shards, children
        front_cpu_s, shards_cpu_s = _cpu_s(front), sum(_cpu_s(pid) for pid in children)
        body = msgspec.json.encode({"embeddings": near(1, number).tolist(), "n_results": 10})
        asked = time.perf_counter()
        path = f"/users/{USER}/collections/{COLLECTION}/query"
        status, answer = await asyncio.to_thread(_asked, port, "POST", path, body)
        answered = time.perf_counter()
        assert status == 200, answer
        check_first(answer, number)
        await starting
        assert await asyncio.to_thread(service.stop) == 0, service.errors
    finally:
        await asyncio.wait([starting])
        await asyncio.to_thread(service.close)
        shutil.rmtree(root)
    return Start(ready_s, answered - began, answered - asked, front_cpu_s, shards_cpu_s)


def _imports(code: str, env: dict[str, str]) -> tuple[float, str]:
    """Return the milliseconds of imports, as the interpreter reports them, and the five slowest packages."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(**env),
    )
    took: Counter[str] = Counter()
    for self_us, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\w+)", done.stderr, re.MULTILINE):
        took[name] += int(self_us)
    assert took["vectorpool"] and took["msgspec"], done.stderr[:1000]
    top = ", ".join(f"{name} {us / 1000:.0f}" for name, us in took.most_common(5))
    return sum(took.values()) / 1000, top


def _middle(turns: list[Start], field: str) -> float:
    return statistics.median(getattr(turn, field) for turn in turns)


def _line(what: str, turns: list[Start], *, target: bool) -> Line:
    ready_s = _middle(turns, "ready_s")
    least, most = min(t.ready_s for t in turns), max(t.ready_s for t in turns)
    note = (
        f"{len(turns)} turns, {least:.2f} to {most:.2f} s; CPU time: front {_middle(turns, 'front_cpu_s'):.2f} s, "
        f"shards {_middle(turns, 'shards_cpu_s'):.2f} s"
    )
    if not target:
        return Line("start", what, f"{ready_s:.2f} s", note=note)
    return Line(
        "start", what, f"{ready_s:.2f} s", "", ready_s / TARGET_S, f"<= {TARGET_S} s", ready_s <= TARGET_S, note
    )


async def run(place: Place) -> list[Line]:
    """Measure 1 and 2 shards in alternation, an installation without bytecode, and the imports."""
    await load(place, USER, COUNT)
    store = place.server.environ(place.store)
    compiled = store | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(place.scratch / "bytecode")}
    bare = store | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(place.scratch / "no-bytecode")}
    await _turn(place, 1, compiled, 0)
    turns: dict[int, list[Start]] = {1: [], 2: []}
    for turn in range(3 if place.quick else 7):
        for shards, done in turns.items():
            done.append(await _turn(place, shards, compiled, turn * 37 % COUNT))
    lines = []
    for shards, done in turns.items():
        named = f"{shards} shard{'s' * (shards > 1)}"
        lines.append(_line(f"process start to ready, {named}", done, target=True))
        lines.append(
            Line(
                "start",
                f"process start to the first answer to a cold user of {COUNT} records, {named}",
                f"{_middle(done, 'answered_s'):.2f} s",
                note=f"the request itself {_middle(done, 'answer_s') * 1000:.0f} ms",
            )
        )
    uncompiled = [await _turn(place, 2, bare, 7) for _ in range(1 if place.quick else 2)]
    lines.append(_line("process start to ready, 2 shards, without any bytecode on disk", uncompiled, target=False))
    for name, code in IMPORTS.items():
        tries = [await asyncio.to_thread(_imports, code, compiled) for _ in range(3)]
        took, top = sorted(tries)[1]
        lines.append(Line("start", f"imports of {name}", f"{took:.0f} ms", note=f"most, in ms: {top}"))
    return lines
