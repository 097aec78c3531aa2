"""The backend that keeps one cookie jar for each hash bucket of users, against a balancer with affinity by cookie."""

from __future__ import annotations

import importlib.util
import random
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import httpx
import pytest

PATH = Path(__file__).parents[2] / "deploy" / "cloudrun" / "affinity.py"


@pytest.fixture(scope="module")
def affinity() -> ModuleType:
    """The module, as a backend that copied it has it."""
    spec = importlib.util.spec_from_file_location("affinity", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Balancer:
    """Sends a caller with a cookie to the instance that it names, if that runs; others to any. It sets the cookie."""

    def __init__(self, instances: int) -> None:
        self.instances = {f"i{number}" for number in range(instances)}
        self.asked: dict[str, list[str]] = defaultdict(list)
        self._dice = random.Random(1)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        named = request.headers.get("cookie", "").partition("GAESA=")[2]
        at = named if named in self.instances else self._dice.choice(sorted(self.instances))
        self.asked[request.url.path].append(at)
        return httpx.Response(
            200, text=at, headers={} if at == named else {"Set-Cookie": f"GAESA={at}; Path=/; HttpOnly"}
        )


def test_a_user_reaches_one_instance_and_users_all_of_them(affinity: ModuleType) -> None:
    """Requests of a user come to one instance; when it is gone, to one other; those of other instances stay."""
    balancer = Balancer(10)
    client = affinity.UsersClient("http://balancer", transport=httpx.MockTransport(balancer))
    users = [f"user-{number}@example.org" for number in range(500)]

    def homes() -> dict[str, str]:
        balancer.asked.clear()
        for _ in range(4):
            for user in users:
                client.request(user, "GET", f"/users/{user}/collections")
        return {user: balancer.asked[f"/users/{user}/collections"][-1] for user in users}

    before = homes()
    assert set(before.values()) == balancer.instances
    assert homes() == before
    assert all(len(set(asked)) == 1 for asked in balancer.asked.values())
    balancer.instances.remove("i3")
    after = homes()
    assert all(len(set(asked)) == 1 for asked in balancer.asked.values())
    assert {user for user in users if after[user] != before[user]} == {u for u, home in before.items() if home == "i3"}
    client.close()


def test_processes_of_a_backend_share_jars(affinity: ModuleType) -> None:
    """What one process keeps, another finds, so both reach the same instance for a user."""
    balancer, shared = Balancer(10), {}
    clients = [
        affinity.UsersClient(
            "http://balancer",
            transport=httpx.MockTransport(balancer),
            cookies=lambda bucket: shared.get(bucket, {}),
            keep=shared.__setitem__,
        )
        for _ in range(2)
    ]
    for number in range(100):
        user = f"user-{number}"
        assert len({client.request(user, "GET", f"/users/{user}").text for client in clients}) == 1
    assert set(shared) == {affinity.bucket_of(f"user-{number}") for number in range(100)}
    for client in clients:
        client.close()
