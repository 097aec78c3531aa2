"""What a warm request costs in this version and in another: ``python -m tests.bench.overhead OTHER/src [--turns N]``.

``--count`` counts bytecode instructions of Python instead, in every thread: the same number at each run, whatever else
runs on the machine, which tells nothing of the time spent in C and in the kernel.

``--without-figures`` takes this version for the other one too, with counters, histograms and timed parts that do
nothing.

Two services run at once, each with one shard over a directory, this version's and that of another checkout. Blocks of
the same strong top-10 queries (or, with ``--work``, gets of three records or upserts of one) go to them by turns, over
one connection each. The figure of a block is processor time of front and shard for a request, from the counts of the
kernel, so that what else runs on the machine matters little; the result is the median over blocks, and that of the
ratios of neighbouring blocks.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECORDS, DIMENSION = 200, 384
# Requests of a block: an upsert makes a commit, and takes some times as long.
BLOCKS = {"query": 2000, "get": 2000, "upsert": 300}
_COUNTED = 100
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


# Python runs it at the start of every process that has it on its path.
_WITHOUT_FIGURES = """
from vectorpool.telemetry import figures, parts

def nothing(*arguments, **named):
    return None

figures.Counter.add = figures.SharedCounter.add = figures.Histogram.observe = nothing
parts.timed = lambda part: lambda method: method
"""


_COUNTING = """
import os, signal, sys, threading
_count, _is_on = [0], [False]

def _traced(frame, event, argument):
    if not _is_on[0]:
        return None
    frame.f_trace_opcodes, frame.f_trace_lines = True, False
    def each(frame, event, argument):
        _count[0] += event == "opcode"
        return each
    return each

def _begin(*_):
    _count[0], _is_on[0] = 0, True
    sys.settrace(_traced)

def _end(*_):
    sys.settrace(None)
    _is_on[0] = False
    with open(os.environ["COUNTS"] + f"/{os.getpid()}.part", "w") as file:
        file.write(str(_count[0]))
    os.rename(file.name, file.name.removesuffix(".part"))

threading.settrace(_traced)
signal.signal(signal.SIGUSR1, _begin)
signal.signal(signal.SIGUSR2, _end)
"""


class Side:
    """A service of one version; ``custom`` is run at the start of each of its processes."""

    def __init__(self, name: str, source: Path, root: Path, *, custom: str = "") -> None:
        self.name = name
        root.mkdir()
        flags = {"STORE": root / "store", "REPLICA_DIR": root / "replicas", "PORT": 0}
        own = {key: value for key, value in os.environ.items() if not key.startswith(("VECTORPOOL_", "OTEL_"))}
        path = [str(source)]
        if custom:
            path.insert(0, str(root))
            (root / "sitecustomize.py").write_text(custom)
        self._counts = root / "counts"
        self._counts.mkdir()
        own["COUNTS"] = str(self._counts)
        own |= {f"VECTORPOOL_{key}": str(value) for key, value in flags.items()}
        env = {**own, "PYTHONPATH": os.pathsep.join(path)}
        command = [str(Path(sys.executable).with_name("vectorpool")), "serve", "--shards", "1"]
        with (root / "log").open("wb") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=root)
        deadline_s = time.monotonic() + 60
        # Older versions write no file with their address.
        while (found := re.search(r"http://127\.0\.0\.1:(\d+)", (root / "log").read_text())) is None:
            assert time.monotonic() < deadline_s and self.process.poll() is None, (root / "log").read_text()
            time.sleep(0.05)
        self.connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        # The line may be there a little before the service listens.
        while self.connection.sock is None:
            assert time.monotonic() < deadline_s, (root / "log").read_text()
            with contextlib.suppress(ConnectionRefusedError):
                self.connection.connect()
            time.sleep(0.05)
        records = [
            {"id": f"r{at}", "embedding": [((at * 7 + place * 13) % 101) / 101 for place in range(DIMENSION)]}
            for at in range(RECORDS)
        ]
        self.send("POST", "/users/42/collections", {"name": "notes"})
        self.send("POST", "/users/42/collections/notes/records", {"records": records})
        self.requests = {
            "query": ("POST", "query", {"embeddings": [records[3]["embedding"]], "n_results": 10}),
            "get": ("POST", "records/get", {"ids": ["r1", "r7", "r99"]}),
            "upsert": ("PUT", "records", {"records": records[3:4]}),
        }
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        # The shard alone: the worker of jobs is another child of newer versions.
        shards = [child for child in children if b"vectorpool.shard" in Path(f"/proc/{child}/cmdline").read_bytes()]
        self.pids = [self.process.pid, *map(int, shards)]

    def send(self, method: str, path: str, body: object) -> bytes:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.connection.request(method, path, data, {"content-type": "application/json", "user-agent": "bench"})
        answer = self.connection.getresponse()
        said = answer.read()
        assert answer.status < 300, said
        return said

    def cpu_s(self) -> list[float]:
        """Return the processor time of front and shard."""
        found = []
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found.append((int(fields[11]) + int(fields[12])) * _TICK_S)
        return found

    def repeat(self, work: str, times: int) -> None:
        """Send one request again and again."""
        # An idle connection is closed after a while.
        self.connection.close()
        method, name, asked = self.requests[work]
        body = json.dumps(asked).encode()
        for _ in range(times):
            self.send(method, f"/users/42/collections/notes/{name}", body)

    def block(self, work: str) -> tuple[float, float]:
        """Return the microseconds of processor time of front and shard for a request of one block."""
        count, before = BLOCKS[work], self.cpu_s()
        self.repeat(work, count)
        front, shard = (b - a for a, b in zip(before, self.cpu_s(), strict=True))
        return front / count * 1e6, shard / count * 1e6

    def count(self, work: str) -> tuple[float, float]:
        """Return the bytecode instructions of front and shard for a request."""
        self.repeat(work, _COUNTED)
        for pid in self.pids:
            os.kill(pid, signal.SIGUSR1)
        self.repeat(work, _COUNTED)
        for pid in self.pids:
            os.kill(pid, signal.SIGUSR2)
        # A handler of Python runs when its process does something.
        self.repeat(work, 1)
        deadline_s = time.monotonic() + 30
        while not all((self._counts / str(pid)).exists() for pid in self.pids):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        front, shard = (int((self._counts / str(pid)).read_text()) / _COUNTED for pid in self.pids)
        return front, shard


def main() -> None:
    """Run both versions by turns and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--without-figures", action="store_true")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--work", choices=tuple(BLOCKS), default="query")
    parser.add_argument("--count", action="store_true")
    options = parser.parse_args()
    if (options.other is None) != options.without_figures:
        parser.error("give the src of another checkout, or --without-figures")
    custom = _COUNTING if options.count else ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        here = Path(__file__).parents[2] / "src"
        sides = [
            Side("this", here, Path(directory) / "this", custom=custom),
            Side(
                "other",
                (options.other or here).resolve(),
                Path(directory) / "other",
                custom=custom + _WITHOUT_FIGURES * options.without_figures,
            ),
        ]
        try:
            if options.count:
                for side in sides:
                    front, shard = side.count(options.work)
                    print(f"{side.name:6} front {front:7,.0f} bytecodes, shard {shard:7,.0f}")
                return
            for side in sides:
                side.block(options.work)
            rows: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
            for turn in range(options.turns):
                for side in sides if turn % 2 else reversed(sides):
                    rows[side.name].append(side.block(options.work))
            for name, blocks in rows.items():
                front, shard = (statistics.median(each) for each in zip(*blocks, strict=True))
                print(f"{name:6} front {front:7.1f} us, shard {shard:7.1f} us, together {front + shard:7.1f} us")
            ratios = [sum(a) / sum(b) for a, b in zip(rows["this"], rows["other"], strict=True)]
            print(f"ratio {statistics.median(ratios):.4f} (from {min(ratios):.4f} to {max(ratios):.4f})")
        finally:
            for side in sides:
                side.process.terminate()
                side.process.wait(30)


if __name__ == "__main__":
    main()
