"""A server of Milvus's protocol in a process of its own: Milvus Lite's, over gRPC on a free port."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from milvus_lite.adapter.grpc.server import start_server_in_thread
server, db, port = start_server_in_thread(sys.argv[1], host="127.0.0.1", port=0)
print(port, flush=True)
sys.stdin.read()
server.stop(grace=1).wait()
db.close()
"""
STOP_S = 30


class MilvusServer:
    """One server over a folder, until it is closed."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        assert port, "the server did not start"
        self.address = f"127.0.0.1:{port}"
        self._numbers = itertools.count(1)

    def database(self) -> str:
        """Return the URL of a new, empty database."""
        from pymilvus import MilvusClient

        name = f"d{next(self._numbers)}"
        client = MilvusClient(f"http://{self.address}")
        client.create_database(name)
        client.close()
        return f"milvus+http://{self.address}/{name}"

    def close(self) -> None:
        """Stop the server."""
        # Its end of file.
        self._process.communicate(timeout=STOP_S)
