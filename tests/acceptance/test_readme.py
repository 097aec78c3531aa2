"""The README does what it says: its walk is run as it stands there, and its tables are complete.

Between ``<!-- walk -->`` and ``<!-- /walk -->`` a ``bash`` block is run in a directory that has ``examples`` in it, as
a checkout has, and the ``text`` block after it is what its output must look like; ``...`` there stands for anything.
A block that ends with ``vectorpool serve`` starts the service (after Ctrl-C for the one before), on a free port.

``uv run python -m tests.acceptance.test_readme`` prints the table of problems.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.protocol.comparing import is_alike
from tests.support.service import COMMAND, START_S, STOP_S, Service, environment, run_cli
from tests.support.store import S3Server
from vectorpool import errors
from vectorpool.errors import TryAgain, VectorpoolError

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LOCAL = "http://localhost:8000"
SERVE = "uv run vectorpool serve"
PLACES = ("/users/{user_id}", "/users/{user_id}/avatars/{avatar_id}")


def between(name: str) -> str:
    """Return the README's part between the markers of a name; of all such parts, if there are several."""
    parts = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert parts, f"the README has no part marked {name}"
    return "\n".join(parts)


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


class Walk:
    """A shell in a directory like a checkout, and the service that its commands start and ask."""

    def __init__(self, directory: Path, env: dict[str, str], *, serve_flags: str = "") -> None:
        self.directory = directory
        (directory / "examples").symlink_to(ROOT / "examples")
        # The examples call curl as a person does, so no proxy of this machine may stand between.
        self._env = environment(**env, COLUMNS="200", NO_PROXY="*", no_proxy="*")
        self._serve_flags = serve_flags
        self._process: subprocess.Popen[str] | None = None
        self._url = ""
        self._log = directory / "service.log"

    @property
    def log(self) -> str:
        """The end of what the service logged."""
        return self._log.read_text()[-4000:]

    def run(self, script: str) -> str:
        """Run a block and return what it prints."""
        script = script.rstrip()
        before, _, last = script.rpartition("\n")
        if last.startswith(SERVE):
            self.stop()
            return (self._bash(before) if before else "") + self._serve(last)
        return self._bash(script)

    def _here(self, script: str) -> str:
        script = script.replace("uv run vectorpool", COMMAND).replace("uv run python", sys.executable)
        return script.replace(LOCAL, self._url)

    def _bash(self, script: str) -> str:
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(script)],
            cwd=self.directory,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, f"{script}\nended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def _serve(self, line: str) -> str:
        command = self._here(f"exec {line.partition('#')[0]} {self._serve_flags} --port 0")
        with self._log.open("a") as log:
            self._process = process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.directory,
                env=self._env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
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
        found = re.search(r"listens on (http://\S+)", printed)
        assert found, f"{line} did not start the service: {printed}\n{self.log}"
        self._url = found[1]
        return printed.replace(self._url, "http://127.0.0.1:8000")

    def stop(self) -> None:
        """Send what Ctrl-C sends, and wait for the end."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(STOP_S) == 0
            finally:
                process.kill()


def take(walk: Walk, *, shown_store: bool) -> dict[str, list[str]]:
    """Run the README's walk; return what each question printed, each time that it was asked."""
    answers: dict[str, list[str]] = {}
    command, printed = "", ""
    for language, content in blocks(between("walk")):
        if language == "bash":
            command, printed = content, walk.run(content)
            if "/query " in content:
                answers.setdefault(content, []).append(printed)
        else:
            assert language == "text"
            if command.rstrip().endswith(SERVE) and not shown_store:
                content = re.sub(r"^  store .*$", "  store ...", content, flags=re.MULTILINE)
            assert matches(content, printed), (
                f"$ {command}\nprinted\n{printed}\nbut the README shows\n{content}\n{walk.log}"
            )
    return answers


def check_answers(answers: dict[str, list[str]]) -> None:
    """Assert that a question asked again, after everything local was deleted, got the same answer."""
    again = [printed for printed in answers.values() if len(printed) > 1]
    assert again, "the walk asks no question twice"
    for first, *later in again:
        assert all(is_alike(json.loads(first), json.loads(printed)) for printed in later), (first, later)


@pytest.fixture
def walks(tmp_path: Path) -> Iterator[list[Walk]]:
    """A list for the walks of a test, whose services end with it."""
    taken: list[Walk] = []
    yield taken
    for walk in taken:
        walk.stop()


def test_the_walk(tmp_path: Path, walks: list[Walk]) -> None:
    """Every command of the walk, run as it stands there with the defaults, prints what the README shows."""
    walks.append(Walk(tmp_path, {}))
    check_answers(take(walks[0], shown_store=True))


def walk_on(server: S3Server, directory: Path) -> Walk:
    """Return a walk whose every command uses a bucket of a server, served as the README's S3 part says."""
    serve = re.search(rf"^{SERVE}( --store \S+)$", README, re.MULTILINE)
    assert serve, "the README does not show how a bucket is served"
    url = f"s3://{server.make_bucket()}/prefix"
    return Walk(directory, server.environ(url), serve_flags=serve[1].replace("s3://bucket/prefix", url))


def test_the_walk_on_a_real_s3(tmp_path: Path, walks: list[Walk], radosgw_server: S3Server) -> None:
    """The same walk works on radosgw, with the variables that the README names."""
    walks.append(walk_on(radosgw_server, tmp_path))
    check_answers(take(walks[0], shown_store=False))


def test_the_walk_on_moto(tmp_path: Path, walks: list[Walk], moto_server: S3Server) -> None:
    """The same walk works on moto's server."""
    walks.append(walk_on(moto_server, tmp_path))
    check_answers(take(walks[0], shown_store=False))


# --- Tables ------------------------------------------------------------------------------------------


def problems_table() -> str:
    """Return the table of problems as the README has it: what the caller can do about it, group by group."""
    found: list[type[VectorpoolError]] = []
    waiting: list[type[VectorpoolError]] = [VectorpoolError]
    while waiting:
        for cls in waiting.pop(0).__subclasses__():
            if cls.__module__ == errors.__name__:
                found.append(cls)
                waiting.append(cls)
    # In the order of the module, which is that of what a caller does next.
    order = [value for value in vars(errors).values() if value in found]
    rows = []
    for cls in order:
        meaning = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
        again = "yes" if issubclass(cls, TryAgain) else ""
        rows.append(f"| `{cls.code}` | {cls.status} | {again} | {meaning} |")
    return "\n".join(["| code | status | try again | meaning |", "|---|---|---|---|", *rows])


def test_the_table_of_problems_is_that_of_the_code() -> None:
    """The README lists every code with its status, and no other."""
    assert between("problems").strip() == problems_table(), (
        "run `uv run python -m tests.acceptance.test_readme` and put its table into the README"
    )


def test_the_table_of_routes_is_complete(service: Service) -> None:
    """The README lists every route that is served, and no other."""
    document = service.ok("GET", "/schema/openapi.json").json()
    served = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        # Chroma's own protocol has a section instead: it is documented by whoever made it.
        if not path.startswith("/api/v2")
        if method in ("get", "head", "post", "put", "patch", "delete")
    }
    listed: set[tuple[str, str]] = set()
    for method, path in re.findall(r"^\| `([A-Z]+) (\S+)` \|", between("routes"), re.MULTILINE):
        places = PLACES if "{place}" in path else ("",)
        listed.update((method, path.replace("{place}", place)) for place in places)
    assert listed == served


def test_the_table_of_commands_is_complete() -> None:
    """The README lists every command of the command line, and no other."""
    told = run_cli("--help").stdout.partition("Commands:")[2]
    commands = re.findall(r"^  (\w+)  ", told, re.MULTILINE)
    assert commands
    assert re.findall(r"^\| `vectorpool (\w+)", README, re.MULTILINE) == commands


def test_its_links_lead_somewhere() -> None:
    """Every relative link of the documents names a file of the repository."""
    for document in sorted([*ROOT.glob("*.md"), *ROOT.glob("deploy/*.md")]):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize(
    ("shown", "got", "same"),
    [
        ("a\nb\n", "a\nb", True),
        ("a ... d", "a b c d", True),
        ("a...", "a\nb\nc", True),
        ("a ... d", "a b c", False),
        ("a", "a\nb", False),
    ],
)
def test_an_output_is_compared_strictly(shown: str, got: str, same: bool) -> None:
    """Only three dots stand for something else, and what is not shown may not be printed."""
    assert matches(shown, got) is same


if __name__ == "__main__":
    print(problems_table())
