"""Clients of many instances, and the ledger that says what each of their reads may show.

Each record has one writer, which sends its next change only after the last one was answered. So a record's changes are
numbered by its version, and it is known which versions a read may show: the last one acknowledged before the read
began, or one sent after it, but never one whose refusal was known before. A write without an answer may have happened
and may happen later; its records are left alone from then on, so that nothing else is in doubt.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.service import Service

COLLECTION = "notes"
# The answer says that nothing of the write was applied, or will be.
_REFUSALS = frozenset(
    {"pool-busy", "queue-full", "draining", "store-unavailable", "shard-unavailable", "commit-conflict"}
)
# A client that gives up early leaves its request behind in a frozen instance; one that waits is answered after it.
_TIMEOUTS_S = (2.5, 25.0)


@dataclass
class Record:
    """One record's history: ``alive[v]`` says whether version ``v`` is a content (True) or an absence."""

    user: str
    record_id: str
    alive: list[bool] = field(default_factory=lambda: [False])
    acknowledged: int = 0
    refused: set[int] = field(default_factory=set)
    doubtful: set[int] = field(default_factory=set)

    def send(self, alive: bool) -> int:
        """Note a change that is about to be sent, and return its version."""
        self.alive.append(alive)
        return len(self.alive) - 1

    @property
    def is_alive(self) -> bool:
        """Whether the last acknowledged change left a content."""
        return self.alive[self.acknowledged]


@dataclass(frozen=True)
class Expectation:
    """What was known of a record when a read began."""

    record: Record
    acknowledged: int
    refused: frozenset[int]

    @classmethod
    def of(cls, record: Record) -> Expectation:
        """Take down what is known of a record now."""
        return cls(record, record.acknowledged, frozenset(record.refused))

    def differs(self, seen: int | None) -> str | None:
        """Return what is wrong with the version that a read showed (None: absent), if anything is."""
        alive = self.record.alive
        allowed = [v for v in range(self.acknowledged, len(alive)) if v not in self.refused]
        if any(not alive[v] for v in allowed) if seen is None else seen in allowed and alive[seen]:
            return None
        return (
            f"{self.record.record_id} of {self.record.user}: version {seen} was read, {self.acknowledged} was "
            f"acknowledged; allowed {allowed[:8]}, alive {[v for v in allowed if alive[v]][:8]}, "
            f"doubtful {sorted(self.record.doubtful)}, refused {sorted(self.record.refused)[-8:]}"
        )


def versions_of(page: list[dict[str, Any]]) -> dict[str, int]:
    """Return the version of each record of a page; raise AssertionError if one is there twice or mixed."""
    versions: dict[str, int] = {}
    for each in page:
        assert each["id"] not in versions, f"{each['id']} is there twice"
        version = int(each["document"])
        assert each["metadata"] == {"version": version}, f"{each['id']} is mixed of two versions: {each}"
        versions[each["id"]] = version
    return versions


class Client(threading.Thread):
    """A thread that sends requests to any instance until it is told to end, and keeps count."""

    def __init__(self, services: Sequence[Service], users: Sequence[str], name: str, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self._services = services
        self._http = httpx.Client()
        self.users = users
        self.dice = random.Random(seed)
        self.ended = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                self.turn()
            except Exception as error:
                self.wrong.append(f"{self.name}: {type(error).__name__}: {error}")
            self.ended.wait(self.dice.random() * 0.15)
        self._http.close()

    def turn(self) -> None:
        """Send one request, or a few that belong together."""
        raise NotImplementedError

    def request(self, method: str, user: str, rest: str, body: object, **headers: str) -> httpx.Response | str:
        """Send a request to any instance that listens; return its response, or "refused" or "unknown" without one."""
        timeout = httpx.Timeout(self.dice.choice(_TIMEOUTS_S), connect=2.5)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for service in self.dice.sample(self._services, len(self._services)):
            url = f"{service.url}/users/{user}/collections/{COLLECTION}/{rest}"
            try:
                return self._http.request(method, url, json=body, timeout=timeout, headers=named)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                # Nothing was sent: the next one, as a load balancer does.
                continue
            except httpx.HTTPError:
                return "unknown"
        return "refused"

    def read(self, expected: list[Expectation], user: str, body: dict[str, object], **headers: str) -> None:
        """Read records, and hold what is there against what was known before."""
        response = self.request("POST", user, "records/get", body | {"include": ["documents", "metadatas"]}, **headers)
        if isinstance(response, str) or response.status_code in (429, 503):
            self.counts["reads without an answer"] += 1
            return
        assert response.is_success, f"a read ended with {response.status_code} {response.text[:300]}"
        self.counts["reads"] += 1
        seen = versions_of(response.json()["records"])
        shown = f"{headers or 'strong'} at commit {response.headers['X-Vectorpool-Commit']} of {response.url}"
        self.wrong += [
            f"{what} ({shown})" for each in expected if (what := each.differs(seen.get(each.record.record_id)))
        ]


class Writer(Client):
    """Adds, changes and deletes records of its own, in calls of one to three; reads some of them back elsewhere."""

    def __init__(self, services: Sequence[Service], users: Sequence[str], name: str, seed: int) -> None:
        super().__init__(services, users, name, seed)
        self.records: dict[str, list[Record]] = {user: [] for user in users}
        self._numbers = 0

    def turn(self) -> None:
        user = self.dice.choice(self.users)
        known = [each for each in self.records[user] if not each.doubtful]
        alive = [each for each in known if each.is_alive]
        wish = self.dice.random()
        if wish < 0.35 or len(alive) < 3:
            absent = [each for each in known if not each.is_alive]
            back = self.dice.sample(absent, min(len(absent), self.dice.randint(0, 1)))
            self._write("POST", user, [*back, *self._new(user, self.dice.randint(1, 2))])
        elif wish < 0.8:
            self._write("PUT", user, self.dice.sample(alive, self.dice.randint(1, 3)))
        else:
            self._write("DELETE", user, self.dice.sample(alive, self.dice.randint(1, 2)))

    def _new(self, user: str, count: int) -> list[Record]:
        made = []
        for _ in range(count):
            self._numbers += 1
            made.append(Record(user, f"{self.name}-{self._numbers}"))
        self.records[user] += made
        return made

    def _write(self, method: str, user: str, records: list[Record]) -> None:
        versions = [each.send(method != "DELETE") for each in records]
        if method == "DELETE":
            response = self.request(method, user, "records", {"ids": [each.record_id for each in records]})
        else:
            contents = [
                {
                    "id": each.record_id,
                    "document": str(version),
                    "metadata": {"version": version},
                    "embedding": [1.0, float(version), 0.0, 0.5],
                }
                for each, version in zip(records, versions, strict=True)
            ]
            response = self.request(method, user, "records", {"records": contents})
        outcome = self._outcome(response)
        self.counts[outcome] += 1
        for each, version in zip(records, versions, strict=True):
            if outcome == "acknowledged":
                each.acknowledged = version
            elif outcome == "refused":
                each.refused.add(version)
            else:
                each.doubtful.add(version)
        if outcome == "acknowledged" and not isinstance(response, str):
            if method == "DELETE":
                assert response.json()["deleted"] == len(records), f"deleted {response.text} of {len(records)} records"
            if self.dice.random() < 0.3:
                self._read_back(user, records, response.headers["X-Vectorpool-Commit"])
        elif outcome != "acknowledged":
            self.ended.wait(0.05)

    def _outcome(self, response: httpx.Response | str) -> str:
        if isinstance(response, str):
            return response
        if response.is_success:
            return "acknowledged"
        code = response.json()["code"]
        self.counts[code] += 1
        if code in _REFUSALS:
            return "refused"
        if code != "outcome-unknown":
            self.wrong.append(f"{response.request.method} ended with {response.status_code} {response.text[:300]}")
        return "unknown"

    def _read_back(self, user: str, records: list[Record], commit: str) -> None:
        """Read on any instance, without a question to the store, but not before the commit of the own write."""
        self.counts["read-your-writes"] += 1
        self.read(
            [Expectation.of(each) for each in records],
            user,
            {"ids": [each.record_id for each in records]},
            X_Vectorpool_Consistency="local",
            X_Vectorpool_Min_Commit=commit,
        )


class Reader(Client):
    """Reads all of one user's records, strongly, and expects every write acknowledged before it began."""

    def __init__(
        self, services: Sequence[Service], users: Sequence[str], name: str, seed: int, writers: Sequence[Writer]
    ) -> None:
        super().__init__(services, users, name, seed)
        self._writers = writers

    def turn(self) -> None:
        user = self.dice.choice(self.users)
        expected = [Expectation.of(each) for writer in self._writers for each in list(writer.records[user])]
        self.read(expected, user, {"limit": 10_000})
