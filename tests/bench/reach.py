"""The files and functions of the package that one request passes: ``python -m tests.bench.reach``.

A served instance runs with a profile hook in each of its processes and threads. The hook notes each function of the
package that is called while one warm request is answered. Fewer files make the path easier to read.
"""

from __future__ import annotations

import mmap
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import vectorpool
from tests.support.service import Service

PACKAGE = Path(vectorpool.__file__).parent
# Work after an answer (a commit's bookkeeping, for example) belongs to the request too.
_AFTER_S = 0.3

_HOOK = """
import mmap, os, sys, threading
_file = open(os.environ["REACH_SWITCH"], "r+b")
_switch = mmap.mmap(_file.fileno(), 1)
_notes = open(os.environ["REACH_NOTES"], "a", buffering=1)
_package = os.environ["REACH_PACKAGE"]
_seen = set()

def _profile(frame, event, argument):
    request = _switch[0]
    if request and event == "call":
        code = frame.f_code
        if (request, code) not in _seen and code.co_filename.startswith(_package):
            _seen.add((request, code))
            _notes.write(f"{request}\\t{code.co_filename}\\t{code.co_qualname}\\n")

threading.setprofile(_profile)
sys.setprofile(_profile)
"""


def measure(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Return, for each kind of request, the functions that it passes, as (file below the package, name)."""
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
            for number, request in enumerate(requests.values(), 1):
                request()
                time.sleep(_AFTER_S)
                switch[0] = number
                request()
                time.sleep(_AFTER_S)
                switch[0] = 0
    finally:
        served.close()
    passed = [line.split("\t") for line in notes.read_text().splitlines()]
    return {
        name: sorted(
            {
                (str(Path(file).relative_to(PACKAGE)), function)
                for request, file, function in passed
                if int(request) == n
            }
        )
        for n, name in enumerate(requests, 1)
    }


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


def main() -> None:
    """Measure and print; ``--functions`` prints every function too."""
    with tempfile.TemporaryDirectory() as root:
        for name, passed in measure(Path(root)).items():
            print(f"{name}: {len({file for file, _ in passed})} files, {len(passed)} functions")
            if "--functions" in sys.argv:
                print(*(f"  {file} {function}" for file, function in passed), sep="\n")


if __name__ == "__main__":
    main()
