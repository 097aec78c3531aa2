"""A page of the documents, run as it stands there.

Between ``<!-- walk -->`` and ``<!-- /walk -->`` a ``bash`` block is run in a directory that has ``examples`` in it, as
in a checkout; a ``python`` or a ``javascript`` block is run there as a program. What a block exports the next have. A
``text`` block is what the block before it must print; ``...`` there stands for anything. A block that ends with
``vectorpool serve`` starts the service (after Ctrl-C for the one before), and one that ends with ``chroma run`` starts
Chroma's own server; both on free ports, which are put in the place of the ports that the page names. Where a page takes
a service for granted, the first marker is ``<!-- walk, served -->``.

A block that no walk can run has a comment before it: ``<!-- not run: why -->``, or ``<!-- run by PATH -->``, a test.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.support.service import START_S, STOP_S, environment

ROOT = Path(__file__).parents[2]
SERVE = "uv run vectorpool serve"
SERVES = re.compile(r"^(?:uv run )?vectorpool serve\b")
CHROMA = re.compile(r"^chroma run .*--port (\d+)$")
NOT_RUN = re.compile(r"<!-- (?:not run: [^>]+|run by [\w./-]+) -->\n+```\w+\n.*?^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = ("bash", "python", "javascript")
NODE_MODULES = ROOT / "tests" / "protocol" / "javascript" / "node_modules"
COMMAND_S = 120


def between(page: str, name: str = "walk") -> str:
    """Return a page's part between the markers of a name, without what is not run; all parts, if there are several."""
    return NOT_RUN.sub(
        "", "\n".join(re.findall(rf"<!-- {name}(?:, served)? -->\n(.*?)<!-- /{name} -->", page, re.DOTALL))
    )


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the fenced blocks as (language, content)."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def matches(shown: str, got: str) -> bool:
    """Return whether an output is what a block shows, ``...`` standing for anything."""

    def squeeze(text: str) -> str:
        # A terminal's table is as wide as its longest cell.
        return re.sub(r" ?\n", "\n", re.sub(r"[ \t]+", " ", text)).strip()

    pattern = ".*?".join(re.escape(part) for part in squeeze(shown).split("..."))
    return re.fullmatch(pattern + (".*" if shown.rstrip().endswith("...") else ""), squeeze(got), re.DOTALL) is not None


def missing_program(page: str) -> str:
    """Return why a page cannot be run on this machine, or an empty text."""
    if any(language == "javascript" for language, _ in blocks(between(page))):
        if shutil.which("node") is None:
            return "Node is not installed"
        if not (NODE_MODULES / "chromadb").is_dir():
            return "the JavaScript client is not installed: npm ci --prefix tests/protocol/javascript"
    return ""


def _beats(port: str) -> bool:
    """Return whether Chroma's server answers on a port."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/v2/heartbeat", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _wait_for_jobs(port: str) -> None:
    """Wait until the service's worker has started: until then a request about jobs may be told to come again."""
    end = time.monotonic() + START_S
    while httpx.get(f"http://127.0.0.1:{port}/users/nobody/jobs", timeout=60, trust_env=False).status_code == 503:
        assert time.monotonic() < end, "the worker did not start"
        time.sleep(0.1)


class Walk:
    """A person's shells in a directory like a checkout, and the servers that their commands start and ask."""

    def __init__(
        self, directory: Path, env: dict[str, str], *, serve_flags: str = "", programs: Path | None = None
    ) -> None:
        """``programs`` is the folder of another installation's ``vectorpool`` and ``python``."""
        self.directory = directory
        (directory / "examples").symlink_to(ROOT / "examples")
        if NODE_MODULES.is_dir():
            (directory / "node_modules").symlink_to(NODE_MODULES)
        # The examples call curl as a person does, so no proxy of this machine may stand between.
        path = f"{programs or Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._env = environment(**env, PATH=path, COLUMNS="200", NO_PROXY="*", no_proxy="*")
        self._serve_flags = serve_flags
        self._service: subprocess.Popen[str] | None = None
        self._servers: list[subprocess.Popen[bytes]] = []
        # The ports that the page names, and those that the servers have.
        self._ports: dict[str, str] = {}
        self._log = directory / "service.log"
        self._exports = directory / ".exports"

    @property
    def log(self) -> str:
        """The end of what the service logged."""
        return self._log.read_text()[-4000:] if self._log.exists() else ""

    def take(self, page: str) -> Iterator[tuple[str, str]]:
        """Run a page's walk, compare each output with what the page shows, and yield each block with its output."""
        command, printed = "", ""
        part = between(page)
        assert part, "the page has no part to walk"
        if "<!-- walk, served -->" in page:
            self.run("vectorpool serve")
        for language, content in blocks(part):
            if language in PROGRAMS:
                command, printed = content, self.run(content, language)
                yield command, printed
            elif language == "text":
                assert matches(content, printed), (
                    f"$ {command}\nprinted\n{printed}\nbut the page shows\n{content}\n{self.log}"
                )
            else:
                raise AssertionError(f"a walk runs no {language}: {content}")

    def run(self, script: str, language: str = "bash") -> str:
        """Run a block and return what it prints."""
        script = script.rstrip()
        if language == "python":
            return self._program(["python", "-c", self._here(script)])
        if language == "javascript":
            program = self.directory / "program.mjs"
            program.write_text(self._here(script))
            return self._program(["node", str(program)])
        before, _, last = script.rpartition("\n")
        if SERVES.match(last):
            self.stop()
            return (self._bash(before) if before else "") + self._serve(last)
        if found := CHROMA.match(last):
            return (self._bash(before) if before else "") + self._serve_chroma(last, found[1])
        return self._bash(script)

    def _here(self, script: str) -> str:
        script = script.replace("uv run vectorpool", "vectorpool").replace("uv run python", "python")
        for named, real in self._ports.items():
            script = re.sub(rf"\blocalhost:{named}\b", f"127.0.0.1:{real}", script)
            script = re.sub(rf"\bport(\s*[=:]\s*){named}\b", rf"port\g<1>{real}", script, flags=re.IGNORECASE)
        return script

    def _program(self, command: list[str]) -> str:
        # Through bash, which has what earlier blocks exported.
        return self._bash('"$@"', *command)

    def _bash(self, script: str, *arguments: str) -> str:
        around = (
            f'[ ! -f "{self._exports}" ] || . "{self._exports}"\n{self._here(script)}\nexport -p > "{self._exports}"'
        )
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", around, "walk", *arguments],
            cwd=self.directory,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        told = " ".join(arguments) or script
        assert ended.returncode == 0, (
            f"{told}\nended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}\n{self.log}"
        )
        return ended.stdout

    def _serve(self, line: str) -> str:
        command = self._here(f"exec {line.partition('#')[0]} {self._serve_flags} --port 0")
        with self._log.open("a") as log:
            self._service = process = subprocess.Popen(
                ["bash", "-c", f'[ ! -f "{self._exports}" ] || . "{self._exports}"\n{command}'],
                cwd=self.directory,
                env=self._env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert process.stdout is not None
        watchdog = threading.Timer(START_S, process.kill)
        watchdog.start()
        printed = ""
        for text in process.stdout:
            printed += text
            if text.startswith("Try:"):
                break
        watchdog.cancel()
        threading.Thread(target=process.stdout.read, daemon=True).start()
        found = re.search(r"listens on http://127\.0\.0\.1:(\d+)", printed)
        assert found, f"{line} did not start the service: {printed}\n{self.log}"
        self._ports["8000"] = found[1]
        _wait_for_jobs(found[1])
        return printed.replace(f":{found[1]}", ":8000")

    def _serve_chroma(self, line: str, named: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = self._ports[named] = str(free.getsockname()[1])
        self._servers.append(
            subprocess.Popen(
                ["bash", "-c", f"exec {line.removesuffix(named)}{port}"],
                cwd=self.directory,
                env=self._env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

        end = time.monotonic() + START_S
        while not _beats(port):
            assert time.monotonic() < end, f"{line} did not start"
            time.sleep(0.05)
        return ""

    def stop(self) -> None:
        """Send what Ctrl-C sends to the service, and wait for its end. A terminal sends it to the whole group."""
        process, self._service = self._service, None
        if process is not None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                assert process.wait(STOP_S) == 0
            finally:
                process.kill()

    def close(self) -> None:
        """End every server that still runs."""
        for server in self._servers:
            server.kill()
            server.wait()
        self.stop()
