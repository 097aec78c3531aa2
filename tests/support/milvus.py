"""A real Milvus server in a process of its own, on free ports, whose users have passwords.

It comes with the group ``milvus-server``. A machine runs one of them at a time: it locks a file of its own at a
fixed place.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from tests.support.chroma_server import free_port

USER: Final = "root"
PASSWORD: Final = "Milvus"
STOP_S: Final = 30
_PORTS: Final = ("etcd", "root_coord", "proxy", "proxy_internal", "query_coord", "query_node", "index_coord")
_MORE_PORTS: Final = ("index_node", "data_coord", "data_node")
# Where each part tells the others that it is: this machine's first address otherwise.
_PARTS: Final = ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")
# How long a start takes at most; some eight seconds on a machine with nothing else to do.
_START_S: Final = 120
_PROGRAM: Final = """
import json, sys, time, urllib.request
from milvus import MilvusServer
options = json.loads(sys.argv[1])
server = MilvusServer(wait_for_started=False, **options["ports"], data_dir=options["folder"])
server.config.set("authorization_enabled", True)
server.config.set("etcd.config.path", options["etcd"])
server.webservice_port = options["metrics"]
for part in options["parts"]:
    server.config.set(part + ".ip", "127.0.0.1")
server.start()
until = time.monotonic() + options["start_s"]
while True:
    assert server.server_proc.poll() is None and time.monotonic() < until, "Milvus did not start"
    try:
        if b"OK" in urllib.request.urlopen(f"http://127.0.0.1:{server.webservice_port}/healthz", timeout=5).read():
            break
    except OSError:
        time.sleep(0.1)
print(server.listen_port, server.server_proc.pid, flush=True)
sys.stdin.read()
server.stop()
"""


class MilvusServer:
    """One server over a folder, until it is closed."""

    def __init__(self, folder: Path) -> None:
        ports = {f"{name}_port": free_port() for name in (*_PORTS, *_MORE_PORTS)}
        etcd = folder / "etcd.yaml"
        clients, peers = (f"http://127.0.0.1:{port}" for port in (ports["etcd_port"], free_port()))
        # JSON is YAML. By itself it listens to its peers, of which it has none, on a fixed port.
        etcd.write_bytes(
            msgspec.json.encode(
                {
                    "name": "default",
                    "data-dir": str(folder / "etcd"),
                    "listen-client-urls": clients,
                    "advertise-client-urls": clients,
                    "listen-peer-urls": peers,
                    "initial-advertise-peer-urls": peers,
                    "initial-cluster": f"default={peers}",
                }
            )
        )
        options = {
            "folder": str(folder),
            "etcd": str(etcd),
            "start_s": _START_S,
            "ports": ports,
            "metrics": free_port(),
            "parts": _PARTS,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, msgspec.json.encode(options).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        told = self._process.stdout.readline().split()
        assert told, f"the server did not start; see {folder}/logs"
        self.address = f"127.0.0.1:{told[0]}"
        self._pid = int(told[1])
        self._numbers = itertools.count(1)

    def database(self) -> str:
        """Return the URL of a new, empty database."""
        from pymilvus import MilvusClient

        name = f"d{next(self._numbers)}"
        client = MilvusClient(f"http://{self.address}", token=f"{USER}:{PASSWORD}", timeout=60)
        client.create_database(name)
        client.close()
        return f"milvus+http://{USER}:{PASSWORD}@{self.address}/{name}"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have the server answer nothing meanwhile."""
        os.kill(self._pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop the server."""
        # Its end of file.
        self._process.communicate(timeout=STOP_S)
