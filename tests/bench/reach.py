"""The files and functions of the package that one request passes: ``python -m tests.bench.reach``.

A served instance runs with a profile hook in each of its processes and threads, which notes each call of a function of
the package. The same request is sent some times, and then nothing for as long. What was called at least once for each
request, beyond its calls while nothing was sent, is the request's own: fewer files make the path easier to read. What
was called less often is the work of timers, or of some requests only (a compaction, for example): it is counted apart.
"""

from __future__ import annotations

import mmap
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

import vectorpool
from tests.support.service import Service

PACKAGE = Path(vectorpool.__file__).parent
# Work after an answer (a commit's bookkeeping, for example) belongs to the request too.
_AFTER_S = 0.3
_TIMES = {"warm query": 20, "upsert": 20, "document ingest": 3}

_HOOK = """
import mmap, os, sys, threading
_file = open(os.environ["REACH_SWITCH"], "r+b")
_switch = mmap.mmap(_file.fileno(), 1)
_notes = os.open(os.environ["REACH_NOTES"], os.O_WRONLY | os.O_APPEND)
_package = os.environ["REACH_PACKAGE"]

def _profile(frame, event, argument):
    window = _switch[0]
    if window and event == "call":
        code = frame.f_code
        if code.co_filename.startswith(_package):
            os.write(_notes, f"{window}\\t{code.co_filename}\\t{code.co_qualname}\\n".encode())

threading.setprofile(_profile)
sys.setprofile(_profile)
"""

Function = tuple[str, str]


class Reach(msgspec.Struct):
    """What one kind of request passes, as (file below the package, name): its own, and what else ran meanwhile."""

    own: list[Function]
    others: list[Function]


def measure(root: Path) -> dict[str, Reach]:
    """Return what each kind of request passes."""
    (root / "hook").mkdir()
    (root / "hook" / "sitecustomize.py").write_text(_HOOK)
    (root / "switch").write_bytes(b"\0")
    notes = root / "notes"
    notes.touch()
    env = {
        "PYTHONPATH": str(root / "hook"),
        "REACH_SWITCH": str(root / "switch"),
        "REACH_NOTES": str(notes),
        "REACH_PACKAGE": str(PACKAGE),
    }
    served = Service(root, "--shards", "1", env=env).start()
    try:
        requests = _requests(served)
        with (root / "switch").open("r+b") as file, mmap.mmap(file.fileno(), 1) as switch:
            for number, (name, request) in enumerate(requests.items(), 1):
                for _ in range(2):
                    request()
                time.sleep(_AFTER_S)
                began_s = time.monotonic()
                switch[0] = 2 * number
                for _ in range(_TIMES[name]):
                    request()
                time.sleep(_AFTER_S)
                took_s = time.monotonic() - began_s
                switch[0] = 2 * number + 1
                time.sleep(took_s)
                switch[0] = 0
    finally:
        served.close()
    calls: Counter[tuple[int, Function]] = Counter()
    for line in notes.read_text().splitlines():
        window, file_, function = line.split("\t")
        calls[int(window), (str(Path(file_).relative_to(PACKAGE)), function)] += 1
    return {name: _reach(calls, number, _TIMES[name]) for number, name in enumerate(requests, 1)}


def _reach(calls: Counter[tuple[int, Function]], number: int, times: int) -> Reach:
    seen = sorted(function for window, function in calls if window == 2 * number)
    own = {f for f in seen if calls[2 * number, f] - calls[2 * number + 1, f] >= times}
    return Reach(own=[f for f in seen if f in own], others=[f for f in seen if f not in own])


def _requests(served: Service) -> dict[str, Callable[[], object]]:
    collection = "/users/42/collections/notes"
    records = [{"id": f"r{i}", "embedding": [float(i), 1.0, 2.0], "document": f"text {i}"} for i in range(20)]
    served.ok("POST", "/users/42/collections", json={"name": "notes"})
    served.ok("PUT", f"{collection}/records", json={"records": records})
    turn = 0

    def ingest() -> None:
        nonlocal turn
        turn += 1
        served.ok("PUT", "/users/42/avatars/7/documents/a.md", content=f"# Title\n\nText number {turn}.".encode())
        served.ok("POST", "/users/42/avatars/7/ingest?wait_s=50")

    return {
        "warm query": lambda: served.ok("POST", f"{collection}/query", json={"embeddings": [[1.0, 1.0, 2.0]]}),
        "upsert": lambda: served.ok("PUT", f"{collection}/records", json={"records": records[:1]}),
        "document ingest": ingest,
    }


def _counted(functions: Iterable[Function]) -> str:
    functions = list(functions)
    return f"{len({file for file, _ in functions})} files, {len(functions)} functions"


def main() -> None:
    """Measure and print; ``--functions`` prints every function too, those of no request marked with a dash."""
    with tempfile.TemporaryDirectory() as root:
        for name, reach in measure(Path(root)).items():
            print(f"{name}: {_counted(reach.own)}; with all that ran meanwhile {_counted(reach.own + reach.others)}")
            if "--functions" in sys.argv:
                print(*(f"    {file} {function}" for file, function in reach.own), sep="\n")
                print(*(f"  - {file} {function}" for file, function in reach.others), sep="\n")


if __name__ == "__main__":
    main()
