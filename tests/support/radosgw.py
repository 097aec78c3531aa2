"""A real S3 on the loopback: Ceph's radosgw over one monitor and one OSD that keeps its objects in memory.

Three processes and a temporary directory, up in a few seconds. ``kill`` and ``freeze`` act on the gateway only, like a
store that dies or stops answering; stored objects survive both. Run by hand: ``python -m tests.support.radosgw``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.store import S3Server, free_port

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_START_S = 90.0

_CONF = """\
[global]
fsid = {fsid}
run dir = {root}/run
admin socket = {root}/run/$name.asok
pid file = {root}/run/$name.pid
log file = {root}/$name.log
mon host = v2:127.0.0.1:{mon_port}/0
mon initial members = a
public addr = 127.0.0.1
ms bind ipv4 = true
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
# radosgw asks for secure mode of its own accord, which does not exist without authentication.
ms mon client mode = crc
paxos propose interval = 0.05
paxos min wait = 0.02
mon allow pool size one = true
mon max pg per osd = 1000
osd crush update on start = false
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
# What a release build in use has: each line of these logs would be made and thrown away.
debug none = 0/0
debug ms = 0/0
debug mon = 0/0
debug osd = 0/0
debug rgw = 0/0
debug objecter = 0/0
debug rados = 0/0
debug memstore = 0/0
debug finisher = 0/0
debug throttle = 0/0
debug auth = 0/0
debug monc = 0/0
debug mgrc = 0/0
debug filestore = 0/0
debug timer = 0/0
debug optracker = 0/0

[mon.a]
mon data = {root}/mon

[osd.0]
osd data = {root}/osd
osd objectstore = memstore
memstore device bytes = {capacity}

[client.rgw]
# Without tcp_nodelay each answer waits 40 ms for the acknowledgement of its head.
rgw frontends = beast endpoint={host}:{port} tcp_nodelay=1
rgw data = {root}/rgw
rgw enable usage log = false
rgw gc obj min wait = 60
"""


def missing_programs() -> list[str]:
    """Return the programs of Ceph that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class RadosgwFailed(RuntimeError):
    """The gateway did not start; the message has the end of its logs."""


@dataclass
class Radosgw(S3Server):
    """One running radosgw. ``start`` it, ``close`` it."""

    endpoint: str = ""
    name: str = "radosgw"
    root: Path = field(default_factory=Path)
    _port: int = 0
    _cluster: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _gateway: subprocess.Popen[bytes] | None = None
    _watchdog: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls, *, capacity_bytes: int = 8 * 1024**3, host: str = "127.0.0.1", port: int | None = None, **keys: str
    ) -> Radosgw:
        """Start monitor, OSD and gateway, make the user, and return when the gateway answers.

        ``keys`` are ``access_key_id`` and ``secret_access_key`` of the user, if it shall have others.
        """
        root = Path(tempfile.mkdtemp(prefix="vectorpool-radosgw-"))
        server = cls(root=root, _port=port or free_port(), **keys)
        server.endpoint = f"http://127.0.0.1:{server._port}"
        try:
            server._watch()
            server._start_cluster(capacity_bytes, host)
            server.restart()
        except BaseException:
            server.close()
            raise
        return server

    def _ceph(self, *command: str, timeout_s: float = 60.0) -> str:
        program, *rest = command
        try:
            done = subprocess.run(
                [program, "-c", str(self.root / "ceph.conf"), *rest],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=True,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise RadosgwFailed(f"{' '.join(command)}: {error}; {error.stderr}\n{self._logs()}") from error
        return done.stdout

    def _watch(self) -> None:
        """Start a shell that ends the daemons when its pipe closes, because this process ended in any way."""
        script = 'pids=""; while read -r pid; do pids="$pids $pid"; done; kill -9 $pids; rm -rf "$0"'
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", script, str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        program, *rest = command
        with (self.root / f"{program}.out").open("ab") as out:
            process = subprocess.Popen(
                [program, "-c", str(self.root / "ceph.conf"), "-f", *rest],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        assert self._watchdog is not None
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(b"%d\n" % process.pid)
        self._watchdog.stdin.flush()
        return process

    def _start_cluster(self, capacity_bytes: int, host: str) -> None:
        for name in ("mon", "osd", "rgw", "run"):
            (self.root / name).mkdir()
        fsid, osd_id, mon_port = str(uuid.uuid4()), str(uuid.uuid4()), free_port()
        ports = {"mon_port": mon_port, "port": self._port}
        conf = _CONF.format(fsid=fsid, root=self.root, host=host, capacity=capacity_bytes, **ports)
        (self.root / "ceph.conf").write_text(conf)
        monmap = str(self.root / "monmap")
        address = f"[v2:127.0.0.1:{mon_port}]"
        self._ceph("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        self._ceph("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        self._cluster.append(self._spawn("ceph-mon", "-i", "a"))
        self._ceph("ceph", "--connect-timeout", "30", "osd", "new", osd_id, "0")
        self._ceph("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        self._ceph("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default")
        self._cluster.append(self._spawn("ceph-osd", "-i", "0"))
        self._ceph(
            *("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", "vectorpool"),
            *("--display-name", "vectorpool", "--access-key", self.access_key_id),
            *("--secret-key", self.secret_access_key),
        )

    def make_user(self, name: str) -> tuple[str, str]:
        """Make a user without rights; return its access key and secret."""
        keys = (uuid.uuid4().hex, uuid.uuid4().hex)
        self._ceph(
            *("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", name, "--display-name", name),
            *("--access-key", keys[0], "--secret-key", keys[1]),
        )
        return keys

    def restart(self) -> None:
        """Start the gateway (again) and return when it answers; all stored objects are still there."""
        if self._gateway is not None:
            self.kill()
        self._gateway = self._spawn("radosgw", "-n", "client.rgw")
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._gateway.poll() is not None or time.monotonic() > deadline:
                raise RadosgwFailed(f"radosgw does not answer at {self.endpoint}\n{self._logs()}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.endpoint, timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def stop(self) -> None:
        """Stop the gateway in order; ``restart`` brings it back."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the gateway without warning; ``restart`` brings it back."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._gateway is None:
            return
        if self._gateway.poll() is None:
            self._gateway.send_signal(signal.SIGCONT)
            self._gateway.send_signal(how)
            try:
                self._gateway.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._gateway.kill()
                self._gateway.wait()
        self._gateway = None

    def freeze(self) -> None:
        """Make the gateway accept connections and never answer, until ``thaw``."""
        assert self._gateway is not None
        self._gateway.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue a frozen gateway; it then carries out the requests that arrived meanwhile."""
        assert self._gateway is not None
        self._gateway.send_signal(signal.SIGCONT)

    def _logs(self) -> str:
        tails = []
        for path in sorted([*self.root.glob("*.out"), *self.root.glob("*.log")]):
            with contextlib.suppress(OSError):
                tails.append(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}")
        return "\n".join(tails)

    def close(self) -> None:
        """End all three processes and remove the directory."""
        self.kill()
        for process in reversed(self._cluster):
            process.kill()
            process.wait()
        self._cluster.clear()
        if self._watchdog is not None:
            # Killed before its pipe closes: its process ids may belong to other processes by now.
            self._watchdog.kill()
            self._watchdog.wait()
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()
            self._watchdog = None
        shutil.rmtree(self.root, ignore_errors=True)


def main() -> None:
    """Run a gateway until Ctrl-C, and print how to reach it."""
    if missing := missing_programs():
        sys.exit(
            f"Not installed: {', '.join(missing)}. On Debian: apt-get install radosgw ceph-mon ceph-osd ceph-common"
        )
    server = Radosgw.start()
    try:
        bucket = server.make_bucket()
        print("# radosgw runs until Ctrl-C; in another shell:", flush=True)
        for name, value in server.environ(f"s3://{bucket}").items():
            print(f"export {name}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.pause()
    finally:
        server.close()


if __name__ == "__main__":
    assert os.name == "posix"
    main()
