"""The product as it is served: ``vectorpool serve`` in a process of its own, on a free port, used over HTTP."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import httpx

COMMAND = str(Path(sys.executable).with_name("vectorpool"))
START_S = 60
# Without a name of its own, a request of this HTTP library is taken for one of an older client of Chroma.
NAMED = {"user-agent": "vectorpool-tests"}
STOP_S = 30


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without this product's settings, and with ``more``."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("VECTORPOOL_")}
    return {**own, **more}


class Service:
    """One instance over a store and a replica directory, which stay after it unless a test deletes them."""

    def __init__(
        self,
        root: Path,
        *flags: str,
        store: str | None = None,
        env: dict[str, str] | None = None,
        port: str | None = "0",
    ) -> None:
        """``port`` None leaves the port to flags and environment."""
        self.store = store or str(root / "store")
        self.replica_dir = root / "replicas"
        self._flags = flags if port is None else ("--port", port, *flags)
        self.env = env or {}
        self._process: subprocess.Popen[str] | None = None
        self._errors: deque[str] = deque(maxlen=2000)
        self.output: list[str] = []
        self.client = httpx.Client(timeout=60, headers=NAMED)

    # --- The process ---------------------------------------------------------------------------------

    def start(self) -> Service:
        """Start the service, and return when it prints its address."""
        assert self._process is None, "it runs already"
        places = ["--store", self.store, "--replica-dir", str(self.replica_dir)]
        self._process = process = subprocess.Popen(
            [COMMAND, "serve", *places, *self._flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A put is ingested when a test asks for it, and not before.
            env=environment(**{"VECTORPOOL_SYNC_ON_WRITE": "false", "VECTORPOOL_SWEEP_INTERVAL_S": "0", **self.env}),
            # A process group of its own: front and shards can be killed and frozen together.
            start_new_session=True,
        )
        assert process.stdout is not None and process.stderr is not None
        threading.Thread(target=self._errors.extend, args=(process.stderr,), daemon=True).start()
        watchdog = threading.Timer(START_S, process.kill)
        watchdog.start()
        self.output = []
        try:
            for line in process.stdout:
                self.output.append(line)
                if found := re.search(r"listens on (http://\S+)", line):
                    self.client.close()
                    self.client = httpx.Client(
                        base_url=found[1].replace("0.0.0.0", "127.0.0.1"), timeout=60, headers=NAMED
                    )
                if line.startswith("Try:"):
                    break
            else:
                self._process = None
                raise AssertionError(f"it did not start, exit code {process.wait()}:\n{self.errors}")
        finally:
            watchdog.cancel()
        threading.Thread(target=self.output.extend, args=(process.stdout,), daemon=True).start()
        return self

    @property
    def pid(self) -> int:
        """The process id of the front."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def stop(self) -> int:
        """Send SIGTERM, wait for the drain, and return the exit code."""
        self.terminate()
        return self.wait()

    def kill(self) -> int:
        """Send SIGKILL to the front; its shards detect that, commit their writes and end."""
        assert self._process is not None, "it does not run"
        self._process.kill()
        return self.wait()

    def kill_all(self) -> None:
        """Send SIGKILL to front and shards at once, like the failure of a machine."""
        self._signal_all(signal.SIGKILL)
        self.kill()

    def freeze(self) -> None:
        """Send SIGSTOP to front and shards at once, until ``thaw``: requests are accepted and not answered."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the frozen processes."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None, "it does not run"
        # The front is the group's leader, and not waited for yet: the number is still its own.
        os.killpg(self._process.pid, number)

    def restart(self) -> Service:
        """Stop and start."""
        assert self.stop() == 0, self.errors
        return self.start()

    def close(self) -> None:
        """Kill all processes that run, frozen or not."""
        if self._process is not None:
            self.kill_all()
        self.client.close()

    def terminate(self) -> None:
        """Send SIGTERM and return at once; ``wait`` for the end of the drain."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the end after ``terminate``, and return the exit code."""
        process, self._process = self._process, None
        assert process is not None, "it does not run"
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"it did not end within {STOP_S} s of its signal:\n{self.errors}") from None

    @property
    def errors(self) -> str:
        """The service's stderr."""
        return "".join(self._errors)

    def delete_replicas(self) -> None:
        """Delete all local files; the store keeps the commits."""
        assert self._process is None, "stop it first"
        shutil.rmtree(self.replica_dir, ignore_errors=True)

    @property
    def url(self) -> str:
        """The service's URL, or its last one."""
        return str(self.client.base_url)

    # --- Requests ------------------------------------------------------------------------------------

    def request(self, method: str, path: str, **arguments: object) -> httpx.Response:
        """Send a request and return its response, of any status."""
        return self.client.request(method, path, **arguments)  # type: ignore[arg-type]

    def ok(self, method: str, path: str, **arguments: object) -> httpx.Response:
        """Send a request that must succeed."""
        response = self.request(method, path, **arguments)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:1000]}"
        return response

    def problem(self, method: str, path: str, code: str, **arguments: object) -> httpx.Response:
        """Send a request that must be refused with a problem of this code."""
        response = self.request(method, path, **arguments)
        assert response.headers["content-type"] == "application/problem+json", response.text[:1000]
        body = response.json()
        assert body["code"] == code, body
        assert body["type"] == f"https://vectorpool.dev/problems/{code}"
        assert body["status"] == response.status_code
        assert body["detail"].endswith(".") and body["title"]
        assert "Traceback" not in response.text
        return response


def run_cli(
    *arguments: str, cwd: Path | None = None, timeout_s: float = 120, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``vectorpool`` to its end; ``env`` adds variables."""
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout_s,
        env=environment(**(env or {})),
    )
