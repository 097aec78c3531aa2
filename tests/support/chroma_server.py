"""Chroma's own single-node server, ``chroma run``, in a process of its own on a free port: the protocol's reference."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import msgspec

COMMAND = str(Path(sys.executable).with_name("chroma"))
START_S = 60
STOP_S = 10
# Another program may take the port before Chroma listens on it.
ATTEMPTS = 3


def free_port() -> int:
    """Return a port of the loopback address on which no program listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ChromaServer:
    """One reference server over a directory; ``allow_reset`` allows ``reset`` in its configuration file."""

    def __init__(self, root: Path, *, allow_reset: bool = False) -> None:
        self._root = root
        self._allow_reset = allow_reset
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(timeout=60)

    def start(self) -> ChromaServer:
        """Start the server, and return when it answers."""
        assert self._process is None, "it runs already"
        self._root.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            if self._start_on(free_port()):
                return self
        raise AssertionError(f"chroma run did not start in {ATTEMPTS} attempts:\n{self.log}")

    def _start_on(self, port: int) -> bool:
        configuration = self._root / "chroma.yaml"
        # JSON is YAML.
        configuration.write_bytes(
            msgspec.json.encode(
                {
                    "port": port,
                    "listen_address": "127.0.0.1",
                    "persist_path": str(self._root / "data"),
                    "allow_reset": self._allow_reset,
                }
            )
        )
        with (self._root / "log").open("wb") as log:
            self._process = process = subprocess.Popen(
                [COMMAND, "run", str(configuration)], stdout=log, stderr=subprocess.STDOUT, cwd=self._root
            )
        self.client.close()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        end = time.monotonic() + START_S
        while time.monotonic() < end and process.poll() is None:
            try:
                # Only Chroma answers this, so another program on the port is not taken for it.
                if "nanosecond heartbeat" in self.client.get("/api/v2/heartbeat").text and process.poll() is None:
                    return True
            except httpx.TransportError:
                time.sleep(0.05)
        self._end()
        return False

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Stop the server."""
        self._end()
        self.client.close()

    @property
    def url(self) -> str:
        """The server's URL, or its last one."""
        return str(self.client.base_url)

    @property
    def log(self) -> str:
        """The server's output."""
        path = self._root / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def errors(self) -> str:
        """The server's output, under the name that ``Service`` has for it."""
        return self.log
